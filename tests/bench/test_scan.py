"""The scan of 100,000 images: seconds, memory and slope against the S3 server of the tests. Minutes long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.corpus import encoded
from tire_pipeline import stack
from tire_pipeline.datasets.versions import READY
from tire_pipeline.settings import STACK_ENV, Settings
from tire_pipeline.stores.objects import ObjectStore, connect

SIZES = (10_000, 30_000, 100_000)

# A process of its own, so that its memory is the scan's alone.
SCAN = """
import json, resource, sys, time
from tire_pipeline.bench.measure import Clock
from tire_pipeline.datasets import contents, snapshots
from tire_pipeline.wiring import services
store = services().objects
row = {}
start = time.perf_counter()
row["images"] = contents.read_table(store, "v1").num_rows
row["listing_s"] = time.perf_counter() - start
clock = Clock()
row["digest"], cached = snapshots.take(store, "v1")
run = clock.run(row["images"])
row["scan_s"], row["cpu_s"] = run.seconds, run.cpu_s
start = time.perf_counter()
row["again"] = snapshots.take(store, "v1") == (row["digest"], True)
row["again_s"] = time.perf_counter() - start
row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(row))
"""


def tiny(i: int) -> bytes:
    """A valid JPEG of under a kilobyte; every number gives another."""
    colour = Image.new("RGB", (16, 16), (i % 251, i // 251 % 251, 90))
    return encoded(colour, comment=str(i))


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a running S3 server."""
    home = tmp_path / "home"
    try:
        stack.up(home, parts=("s3",), environ={})
        yield Settings(_env_file=home / STACK_ENV)  # type: ignore[call-arg]
    finally:
        stack.down(home)


def environment(settings: Settings) -> dict[str, str]:
    assert settings.s3_access_key_id is not None
    assert settings.s3_secret_access_key is not None
    return {
        **os.environ,
        "TIRE_BUCKET": settings.bucket,
        "TIRE_S3_ENDPOINT_URL": settings.s3_endpoint_url,
        "TIRE_S3_ACCESS_KEY_ID": settings.s3_access_key_id.get_secret_value(),
        "TIRE_S3_SECRET_ACCESS_KEY": settings.s3_secret_access_key.get_secret_value(),
    }


@pytest.mark.bench
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_images_are_indexed_in_linear_time_and_little_memory(settings: Settings) -> None:
    store: ObjectStore = connect(settings)

    def put(i: int) -> None:
        store.put(f"datasets/v1/{'good' if i % 2 else 'bad'}/{i:07d}.jpg", tiny(i))

    rows: list[dict[str, float]] = []
    print("\n| images | listed s | scanned s | CPU ms an image | again s | peak MB |")  # noqa: T201
    for size in SIZES:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(int(rows[-1]["images"]) if rows else 0, size)))
        store.put(f"datasets/v1/{READY}", b"")
        for part in list(store.list("snapshots/parts/")):  # what was scanned before is not to help
            store.delete(part.key)
        run = [sys.executable, "-c", SCAN]
        answer = subprocess.run(run, env=environment(settings), capture_output=True, text=True, check=True)
        rows.append(json.loads(answer.stdout))
        figures = "{images} | {listing_s:.1f} | {scan_s:.1f} | {each:.2f} | {again_s:.1f} | {peak_mb:.0f}"
        print("|", figures.format(**rows[-1], each=1e3 * rows[-1]["cpu_s"] / size), "|")  # noqa: T201
    images, seconds, peak = (np.array([r[c] for r in rows]) for c in ("images", "cpu_s", "peak_mb"))
    exponent = np.polyfit(np.log(images), np.log(seconds), 1)[0]
    growth_mb = (peak[-1] - peak[-2]) / (images[-1] - images[-2]) * 1e6  # small versions have no full shard
    print(f"time ~ images^{exponent:.2f}; memory {growth_mb:.0f} MB more a million images")  # noqa: T201
    assert images.tolist() == list(SIZES)
    assert all(r["again"] for r in rows)
    assert exponent < 1.15
    assert peak[-1] + growth_mb * 0.9 < 1000
