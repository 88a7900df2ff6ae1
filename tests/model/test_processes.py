"""Two processes, started by torchrun, train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.conftest import draw
from tire_pipeline.training.checkpoints import Checkpoints
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.loop import Examples, fit

ROOT = Path(__file__).parents[2]
# Nothing here draws within the network, where each process has dice of its own; batches of 8 and 7 are shared unevenly.
CONFIG = {
    **{"model_type": "cnn", "epochs": 2, "batch_size": 8, "image_height": 32, "image_width": 32, "threads": 1},
    **{"dropout": 0.0, "mixing": "mixup", "ema_decay": 0.5, "gradient_clip": 1.0, "class_weights": "balanced"},
}


def train(out: Path) -> None:
    """One training of this file's configuration; the first process writes its figures."""
    images_NHWC, labels_N = draw(42)
    rows = np.arange(42)
    examples = Examples(images_NHWC, labels_N, train=rows[:31], val=rows[31:], num_classes=2)
    checkpoints = Checkpoints(out.with_suffix(".checkpoints"))
    done = fit(examples, TrainingConfig.of(**CONFIG), on_epoch=lambda *_: None, checkpoints=checkpoints)
    if os.environ.get("RANK", "0") == "0":
        weights = [float(p.detach().double().square().sum()) for p in done.model.parameters()]
        out.write_text(json.dumps({"history": done.history, "weights": weights}))


def of_two(out: Path) -> dict[str, Any]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *launch, __file__, str(out)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=240)
    made: dict[str, Any] = json.loads(out.read_text())
    return made


@pytest.mark.timeout(300)
def test_two_processes_have_the_figures_and_weights_of_one(tmp_path: Path) -> None:
    train(tmp_path / "1.json")
    one, two = json.loads((tmp_path / "1.json").read_text()), of_two(tmp_path / "2.json")
    for a, b in zip(one["history"], two["history"], strict=True):
        names = a.keys() - {"train/images_per_s"}
        assert {n: b[n] for n in names} == pytest.approx({n: a[n] for n in names}, abs=1e-4)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)
    assert max((tmp_path / "2.checkpoints").glob("epoch-*")).name == "epoch-0002-step-000000"


if __name__ == "__main__":
    train(Path(sys.argv[1]))
