"""`tire bench loader`: what an image costs on its way to the device, by this loader and by what people use instead."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tire_pipeline.bench import peers
from tire_pipeline.bench.designs import PREFIX, SNAPSHOT
from tire_pipeline.bench.measure import Row, Run, rotated, rows_of
from tire_pipeline.bench.pictures import write_pictures
from tire_pipeline.datasets.shards import pack
from tire_pipeline.errors import TireError
from tire_pipeline.settings import STACK_ENV, Settings
from tire_pipeline.stores.objects import ObjectStore, connect

OURS = ("cold", "warm_random_resized_crop", "warm_crop", "naive", "imagefolder")
PEERS = ("webdataset", "mosaicml-streaming")
REFERENCES = ("ours, light with turns", "limit: decode", "limit: memcpy")
DESIGNS = (*OURS, *PEERS)
PEERS_PYTHON = Path(".venv-bench/bin/python")


@dataclass(frozen=True)
class Plan:
    """What is compared: `num_images` of `source` (drawn where that is None), brought to height × width."""

    num_images: int = 2000
    rounds: int = 5
    height: int = 224
    width: int = 224
    source: Path | None = None


def compare(
    plan: Plan, *, home: Path, work: Path, say: Callable[[str], None], progress: Callable[[int, int], None]
) -> list[Row]:
    """A row for each design and limit. `home` is that of a running stack with S3, `work` an empty folder.

    Each design runs once a round in a process of its own, prepared beforehand. The peers are left out, and `say` is
    told, where .venv-bench is missing. Raises TireError with the last lines of a process that fails.
    """
    environ = {k: v for k, v in os.environ.items() if not k.startswith("TIRE_")} | {"TIRE_HOME": str(home)}
    store = connect(Settings(_env_file=home / STACK_ENV))  # type: ignore[call-arg]
    prepare(plan, store, work)
    size = (str(plan.height), str(plan.width))
    commands = {
        d: [sys.executable, "-m", "tire_pipeline.bench.designs", d, str(work), *size] for d in OURS + REFERENCES
    }
    if PEERS_PYTHON.exists():
        script = [str(PEERS_PYTHON), peers.__file__]
        answer_of([*script, "prepare", str(work / "pictures" / "all"), str(work)], environ)
        commands |= {d: [*script, d, str(work), *size] for d in PEERS}
    else:
        say(f"left out: {' and '.join(PEERS)}, for there is no {PEERS_PYTHON.parents[1]} here. `make bench-peers`")
    answer_of(commands["limit: memcpy"], environ)  # fills the cache
    runs: dict[str, list[Run]] = {design: [] for design in DESIGNS + REFERENCES}
    total, done = plan.rounds * len(commands), 0
    for order in rotated(list(commands), plan.rounds):
        for design in order:
            runs[design].append(Run(**json.loads(answer_of(commands[design], environ))))
            progress(done := done + 1, total)
    return rows_of(runs)


def prepare(plan: Plan, store: ObjectStore, work: Path) -> None:
    """Write the pictures to disk and, as objects and as shards, to S3; index.parquet says which they are."""
    folder = work / "pictures" / "all"  # ImageFolder wants a folder a class
    write_pictures(folder, num_images=plan.num_images, source=plan.source)
    rows = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        store.put(PREFIX + path.name, data)
        rows.append((path.name, PREFIX + path.name, hashlib.sha256(data).hexdigest(), len(data)))
    index = pd.DataFrame(rows, columns=["path", "key", "sha256", "bytes"])
    index.to_parquet(work / "index.parquet")
    pack(store, index, name=SNAPSHOT)


def answer_of(command: list[str], environ: Mapping[str, str]) -> str:
    """The last line that the command prints."""
    done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, check=False)
    if done.returncode:
        end = "\n".join(done.stderr.splitlines()[-5:])
        raise TireError(f"{' '.join(command)} ended with {done.returncode}:\n{end}")
    return done.stdout.strip().rpartition("\n")[2]
