"""Trainings that are killed: this file, run as a program, trains once for each line of JSON it reads.

    {"folder": "…", "config": {…}, "every_steps": 1, "die_at": 7, "die_after_s": 0.4}

Each training is a process of its own, forked from this one, so that torch is imported once. `die_at` ends it with
SIGKILL at that file operation on its checkpoints (0 is the first); `die_after_s` after that time, and `die_at_batch`
while that batch is read (0 is the first; without augmentation). All of them may send another `signal`.
`headroom_mb` is how much more memory it may have than it started with, `largest_file` how long a file may be, and
`num_images` how many it has. The answer is a line of JSON: how it ended, the file operations, the seconds from a signal
to the end, and the weights' and figures' digests, or the error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch._dynamo  # noqa: F401  (the first optimizer of a process imports it, for a second and a half)

from tests.model.conftest import draw
from tire_pipeline.errors import TireError
from tire_pipeline.training.checkpoints import Checkpoints
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.device import bf16_problem
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
    if order["config"].get("precision") == "bf16":
        bf16_problem()  # known from here on, so that it is tried once and not in every child
    child = os.fork()
    if child == 0:
        code = 1
        try:
            answer_file.write_text(json.dumps(train(order, operations_file)))
            code = 0
        except TireError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
            answer_file.write_text(json.dumps({"error": type(error).__name__, "said": str(error)}))
            code = error.exit_code
        finally:
            os._exit(code)
    asked = wait(child, order.get("die_after_s"), order.get("signal", signal.SIGKILL))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    answer = json.loads(answer_file.read_text()) if answer_file.exists() else {}
    operations = operations_file.read_text().splitlines() if operations_file.exists() else []
    return {"status": status, "operations": operations, "seconds": time.monotonic() - asked, **answer}


def wait(child: int, die_after_s: float | None, number: int) -> float:
    """Send the child the signal when its time has come; when that was, or when the child had come to its end before."""
    deadline = math.inf if die_after_s is None else time.monotonic() + die_after_s
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= deadline:
            os.kill(child, number)
            break
        time.sleep(0.002)
    return time.monotonic()


def train(order: dict[str, Any], operations_file: Path) -> dict[str, Any]:
    die_with_the_operation(order, operations_file)
    num_images, config = order.get("num_images", 32), TrainingConfig.of(**order["config"])
    images_NHWC, labels_N = draw(num_images, side=config.image_height)
    if "die_at_batch" in order:
        images_NHWC = images_NHWC.view(Deadly)
        Deadly.batch, Deadly.signal = order["die_at_batch"], order.get("signal", signal.SIGKILL)
    rows = np.arange(num_images)
    examples = Examples(images_NHWC, labels_N, train=rows[:-8], val=rows[-8:], num_classes=2)
    checkpoints = Checkpoints(Path(order["folder"]), every_steps=order.get("every_steps", 1))
    told: list[int] = []
    limit(order)
    done = fit(examples, config, on_epoch=lambda epoch, _: told.append(epoch), checkpoints=checkpoints)
    figures = [{k: v for k, v in h.items() if k != "train/images_per_s"} for h in done.history]
    weights = safetensors.torch.save(done.model.state_dict())
    return {
        "weights": hashlib.sha256(weights).hexdigest(),
        "figures": hashlib.sha256(json.dumps([figures, done.best_epoch]).encode()).hexdigest(),
        "told": told,
        "parts": done.parts,
    }


class Deadly(np.ndarray):
    """Images that send this process a signal when a certain batch of them is read."""

    batch, signal, seen = 0, signal.SIGKILL, 0

    def __getitem__(self, rows: Any) -> Any:
        if Deadly.seen == Deadly.batch:
            os.kill(os.getpid(), Deadly.signal)
        Deadly.seen += 1
        return super().__getitem__(rows)


def limit(order: dict[str, Any]) -> None:
    """The kernel's own limits, on this process."""
    if headroom_mb := order.get("headroom_mb"):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + headroom_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    if largest_file := order.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))


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
                os.kill(os.getpid(), order.get("signal", signal.SIGKILL))
            seen += 1
            os.write(out, f"{event} {path.removeprefix(folder)}\n".encode())

    sys.addaudithook(hook)


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(live(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
