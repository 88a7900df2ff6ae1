"""Trainings that are killed: this file, run as a program, trains once for each line of JSON it reads.

    {"folder": "…", "config": {…}, "every_steps": 1, "die_at": 7, "die_after_s": 0.4}

Each training is a process of its own, forked from this one, so that torch is imported once. `die_at` ends it with
SIGKILL at that file operation on its checkpoints (0 is the first); `die_after_s` after that time. The answer is a line
of JSON: how it ended, the file operations, and, of a training that came to its end, the weights' and figures' digests.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from tests.model.conftest import draw
from tire_pipeline.training.checkpoints import Checkpoints
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.loop import Examples, fit

ROOT = Path(__file__).parents[2]
OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree"}


class Mortals:
    """The program, running."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def train(self, folder: Path, config: dict[str, Any], **options: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"folder": str(folder), "config": config, **options}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


@contextlib.contextmanager
def mortals() -> Iterator[Mortals]:
    running = Mortals()
    try:
        yield running
    finally:
        running.close()


def live(order: dict[str, Any]) -> dict[str, Any]:
    """Fork a training, let it die or end, and say what became of it."""
    answer_file = Path(order["folder"]).with_suffix(".answer")
    answer_file.unlink(missing_ok=True)
    operations_file = Path(order["folder"]).with_suffix(".operations")
    operations_file.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            answer_file.write_text(json.dumps(train(order, operations_file)))
            code = 0
        finally:
            os._exit(code)
    status = wait(child, order.get("die_after_s"))
    answer = json.loads(answer_file.read_text()) if status == 0 else {}
    operations = operations_file.read_text().splitlines() if operations_file.exists() else []
    return {"status": status, "operations": operations, **answer}


def wait(child: int, die_after_s: float | None) -> int:
    """The child's exit code, or minus the signal that ended it."""
    deadline = None if die_after_s is None else time.monotonic() + die_after_s
    while deadline is not None and time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    if deadline is not None:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(order: dict[str, Any], operations_file: Path) -> dict[str, Any]:
    die_with_the_operation(order, operations_file)
    images_NHWC, labels_N = draw(32)
    rows = np.arange(32)
    examples = Examples(images_NHWC, labels_N, train=rows[:24], val=rows[24:], num_classes=2)
    checkpoints = Checkpoints(Path(order["folder"]), every_steps=order.get("every_steps", 1))
    told: list[int] = []
    config = TrainingConfig.of(**order["config"])
    done = fit(examples, config, on_epoch=lambda epoch, _: told.append(epoch), checkpoints=checkpoints)
    figures = [{k: v for k, v in h.items() if k != "train/images_per_s"} for h in done.history]
    weights = safetensors.torch.save(done.model.state_dict())
    return {
        "weights": hashlib.sha256(weights).hexdigest(),
        "figures": hashlib.sha256(json.dumps([figures, done.best_epoch]).encode()).hexdigest(),
        "told": told,
    }


def die_with_the_operation(order: dict[str, Any], operations_file: Path) -> None:
    """From now on write down each file operation below the folder, and die before the one of the order."""
    folder, die_at, seen = order["folder"], order.get("die_at"), 0
    out = os.open(operations_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        path = str(arguments[0]) if event in OPERATIONS else ""
        within = not path.startswith("/") and event in ("os.remove", "os.rmdir")  # rmtree deletes relative to a folder
        if path.startswith(folder) or (path and within):
            if seen == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
            os.write(out, f"{event} {path.removeprefix(folder)}\n".encode())

    sys.addaudithook(hook)


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(live(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
