"""`tire bench train`: what a training costs in our loop, and in those that people use instead."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from tire_pipeline.bench.loader import answer_of
from tire_pipeline.bench.measure import Run, Training, TrainingRow, rotated, training_rows
from tire_pipeline.datasets.shards import pack
from tire_pipeline.errors import InputError
from tire_pipeline.sample import draw_sample
from tire_pipeline.settings import STACK_ENV, Settings
from tire_pipeline.stores.objects import ObjectStore, connect
from tire_pipeline.training.device import bf16_problem

SNAPSHOT, PREFIX, PLAN = "bench", "datasets/bench/", "plan.json"
LOOPS = ("ours", "timm", "torchvision", "naive", "ours_frozen", "naive_frozen")
BF16_LOOPS = ("ours_bf16", "timm_bf16", "torchvision_bf16")
VAL_EVERY = 5  # of the groups, one in so many is validated with


@dataclass(frozen=True)
class Plan:
    """What is trained on what: a network of `models`, at side × side pixels, with so many threads and loader workers.

    The pictures are those of `source` (a labels.csv with path, label and group), or `num_images` drawn ones.
    """

    model_type: str = "resnet18"
    num_images: int = 400
    side: int = 128
    epochs: int = 4
    batch_size: int = 32
    threads: int = 1
    rounds: int = 3
    score: float = 0.8
    num_classes: int = 2
    source: str = ""


def compare(
    plan: Plan, *, home: Path, work: Path, say: Callable[[str], None], progress: Callable[[int, int], None]
) -> list[TrainingRow]:
    """A row for each loop. `home` is that of a running stack with S3, `work` an empty folder.

    Each loop runs once a round, in a process of its own. Where bf16 does not work, those that compute so are left out,
    and `say` is told. Raises TireError with the last lines of a process that fails.
    """
    environ = {k: v for k, v in os.environ.items() if not k.startswith("TIRE_")} | {"TIRE_HOME": str(home)}
    prepare(plan, connect(Settings(_env_file=home / STACK_ENV)), work)  # type: ignore[call-arg]
    loops = list(LOOPS)
    if problem := bf16_problem():
        say(f"left out: {', '.join(BF16_LOOPS)}, for bf16 does not work on this CPU ({problem})")
    else:
        loops += BF16_LOOPS
    trainings: dict[str, list[Training]] = {loop: [] for loop in loops}
    done = 0
    for order in rotated(loops, plan.rounds):
        for loop in order:
            said = json.loads(answer_of([sys.executable, "-m", "tire_pipeline.bench.loops", loop, str(work)], environ))
            trainings[loop].append(Training(Run(**said["run"]), [tuple(pair) for pair in said["scores"]]))
            progress(done := done + 1, plan.rounds * len(loops))
    return training_rows(trainings, score=plan.score)


def prepare(plan: Plan, store: ObjectStore, work: Path) -> None:
    """The pictures on disk, a folder a side and class, and in S3, as objects and shards; index.parquet says which."""
    source = Path(plan.source) if plan.source else work / "drawn"
    if not plan.source:
        draw_sample(source, num_images=plan.num_images)
    if not (source / "labels.csv").exists():
        raise InputError(f"{source} has no labels.csv with path, label and group. `tire sample` writes one.")
    listed = pd.read_csv(source / "labels.csv", dtype=str)
    groups = sorted(listed["group"].unique())
    validated = set(groups[::VAL_EVERY])
    rows = []
    for number, (path, label, group) in enumerate(listed[["path", "label", "group"]].to_numpy(object).tolist()):
        side = "val" if group in validated else "train"
        name = f"{number:06d}{Path(path).suffix}"
        folder = work / "pictures" / side / label
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, folder / name)
        data = (folder / name).read_bytes()
        store.put(PREFIX + name, data)
        rows.append((name, PREFIX + name, label, side, hashlib.sha256(data).hexdigest(), len(data)))
    index = pd.DataFrame(rows, columns=["path", "key", "label", "side", "sha256", "bytes"])
    index.to_parquet(work / "index.parquet")
    pack(store, index, name=SNAPSHOT)
    made = {**asdict(plan), "num_classes": int(index["label"].nunique())}
    (work / PLAN).write_text(json.dumps(made))


def read_plan(work: Path) -> Plan:
    return Plan(**json.loads((work / PLAN).read_text()))
