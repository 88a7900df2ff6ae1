"""100,000 images scanned and validated: seconds, memory and slope against real stores. Half an hour long."""

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

# Memory is what the process asked for: pages of files that it maps are the system's, which takes them back.
WATCHED = r"""
import json, re, threading, time
from contextlib import contextmanager
from pathlib import Path
from tire_pipeline.bench.measure import Clock
from tire_pipeline.wiring import services

@contextmanager
def watched(row, name):
    row[name], ended = 0.0, threading.Event()
    def watch():
        while not ended.wait(0.02):
            status = Path("/proc/self/status").read_text()
            row[name] = max(row[name], int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
"""

# A process of its own, so that its memory is the scan's alone.
SCAN = """
store = services().objects
from tire_pipeline.datasets import contents, snapshots
row = {}
with watched(row, "scan_mb"):
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
print(json.dumps(row))
"""

# The same for what comes after the scan.
VALIDATE = """
from tire_pipeline import steps
row, clock = {}, Clock()
with watched(row, "validate_mb"):
    run = clock.run(steps.validate("v1").num_images)
print(json.dumps({"validate_s": run.seconds, "validate_cpu_s": run.cpu_s, **row}))
"""
# For a million images; the libraries' own pages, some 150 MB, are on top.
MB_MAX = {"scan": 800, "validate": 3000}


def tiny(i: int) -> bytes:
    """A valid JPEG of two kilobytes that has keypoints; every number gives another."""
    coarse = np.random.default_rng(i).integers(0, 256, (12, 12, 3), np.uint8)
    return encoded(Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC))


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of running stores."""
    home = tmp_path / "home"
    try:
        stack.up(home, parts=("postgres", "s3", "mlflow"), environ={})
        yield Settings(_env_file=home / STACK_ENV)  # type: ignore[call-arg]
    finally:
        stack.down(home)


def environment(settings: Settings) -> dict[str, str]:
    return {**os.environ, "TIRE_HOME": str(settings.home), "GIT_PYTHON_REFRESH": "quiet"}


def ran(script: str, settings: Settings) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED + script], env=environment(settings), capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return found


@pytest.mark.bench
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_images_are_indexed_in_linear_time_and_little_memory(settings: Settings) -> None:
    store: ObjectStore = connect(settings)

    def put(i: int) -> None:
        store.put(f"datasets/v1/{'good' if i % 2 else 'bad'}/{i:07d}.jpg", tiny(i))

    rows: list[dict[str, float]] = []
    print("\n| images | listed s | scanned s | CPU ms each | again s | peak MB | validated s | CPU ms each | peak MB |")  # noqa: T201
    for size in SIZES:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(int(rows[-1]["images"]) if rows else 0, size)))
        store.put(f"datasets/v1/{READY}", b"")
        for part in list(store.list("snapshots/parts/")):  # what was scanned before is not to help
            store.delete(part.key)
        rows.append({**ran(SCAN, settings), **ran(VALIDATE, settings)})
        scanned = "{images} | {listing_s:.1f} | {scan_s:.1f} | {each:.2f} | {again_s:.1f} | {scan_mb:.0f}"
        validated = "{validate_s:.1f} | {validate_each:.2f} | {validate_mb:.0f}"
        each = {"each": 1e3 * rows[-1]["cpu_s"] / size, "validate_each": 1e3 * rows[-1]["validate_cpu_s"] / size}
        print("|", f"{scanned} | {validated}".format(**rows[-1], **each), "|", flush=True)  # noqa: T201
    assert [r["images"] for r in rows] == list(SIZES)
    assert all(r["again"] for r in rows)
    for what, cpu_s in (("scan", "cpu_s"), ("validate", "validate_cpu_s")):
        seconds, peak_mb = (np.array([r[column] for r in rows]) for column in (cpu_s, f"{what}_mb"))
        exponent = np.polyfit(np.log(SIZES), np.log(seconds), 1)[0]
        # Small versions have no full shard. The threads' heaps fill up to 100,000 images or so: this says too much.
        growth_mb = (peak_mb[-1] - peak_mb[-2]) / (SIZES[-1] - SIZES[-2]) * 1e6
        of_a_million_mb = peak_mb[-1] + growth_mb * 0.9
        print(f"{what}: time ~ images^{exponent:.2f}; {of_a_million_mb:.0f} MB for a million images")  # noqa: T201
        assert exponent < 1.15
        assert of_a_million_mb < MB_MAX[what]
