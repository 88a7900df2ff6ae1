"""What befalls a training: losses that are no numbers, signals, too little memory, a full disk. Nothing is a mock."""

from __future__ import annotations

import gc
import signal
import subprocess
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tests.model.dying import Mortals, mortals
from tests.model.test_resumption import BASE, same
from tire_pipeline.errors import OutOfResources, TireError
from tire_pipeline.training.checkpoints import Checkpoints, damage
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.loop import Examples, fit
from tire_pipeline.training.memory import Sweeper

CONFIG = TrainingConfig.of(**BASE)


@pytest.fixture(scope="module")
def lives() -> Iterator[Mortals]:
    with mortals() as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(lives: Mortals, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return lives.train(tmp_path_factory.mktemp("undisturbed") / "c", BASE)


class Spoilt(np.ndarray):
    """Images that come out as no number from the seventh batch on; which rows they were is written down."""

    asked: ClassVar[list[list[int]]] = []

    def __getitem__(self, rows: Any) -> Any:
        Spoilt.asked.append(rows.tolist())
        factor = np.nan if len(Spoilt.asked) >= 7 else 1
        return np.asarray(super().__getitem__(rows)).astype(np.float32) * factor


def test_a_loss_that_is_no_number_stops_within_the_step_and_names_its_images(
    examples: Examples, tmp_path: Path
) -> None:
    images_NHWC = examples.images_NHWC.view(Spoilt)
    named = replace(examples, images_NHWC=images_NHWC, paths=[f"line3/{row:03d}.jpg" for row in range(96)])
    config = replace(CONFIG, augmentation="none", batch_size=16)
    checkpoints = Checkpoints(tmp_path, every_steps=1)
    with pytest.raises(TireError) as refused:
        fit(named, config, on_epoch=lambda *_: None, checkpoints=checkpoints)
    said = str(refused.value)
    assert "The loss of cnn became nan in epoch 2, step 2. Lower --learning-rate (it is 0.002)" in said
    assert "The batch: " + ", ".join(f"line3/{row:03d}.jpg" for row in Spoilt.asked[6]) in said
    assert len(Spoilt.asked) == 7
    tensors, numbers = checkpoints.newest() or ({}, {})
    assert (numbers["progress"]["epoch"], numbers["progress"]["step"]) == (1, 1)
    assert all(torch.isfinite(t).all() for name, t in tensors.items() if name.startswith("model."))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_signal_within_a_step_is_obeyed_with_a_checkpoint_that_goes_on_to_the_same_weights(
    lives: Mortals, name: str, accumulation: int, tmp_path: Path
) -> None:
    config = {**BASE, "accumulation": accumulation, "augmentation": "none", "mixing": "mixup"}
    asked = {"every_steps": 0, "die_at_batch": 5, "signal": signal.Signals[name]}  # the second epoch's second one
    done = lives.train(tmp_path / "c", config, **asked)
    assert (done["status"], done["error"]) == (130, "Interrupted")
    steps = 2 if accumulation == 1 else 1  # a step of several parts is given up, one of one is ended
    assert f"{name} stopped the training of cnn in epoch 2, after {steps} steps" in done["said"]
    assert same(lives.train(tmp_path / "c", config), lives.train(tmp_path / "whole", config))


def slowness() -> float:
    """How many seconds pass on this machine while a process that always wants the CPU gets it for one; 1 if alone."""
    wall, cpu = time.monotonic(), time.process_time()
    while time.process_time() - cpu < 0.2:
        pass
    return max(1.0, (time.monotonic() - wall) / 0.2)


@pytest.mark.parametrize("model_type", ["cnn", "tiny_vgg", "resnet18"])
def test_the_default_candidates_end_within_three_seconds_of_a_signal(
    lives: Mortals, model_type: str, tmp_path: Path
) -> None:
    config = {**TrainingConfig.of(model_type).as_dict(), "threads": 1, "epochs": 1000}
    before = slowness()
    done = lives.train(tmp_path / "c", config, num_images=136, die_after_s=2.0, signal=signal.SIGTERM, every_steps=0)
    assert done["status"] == 130
    assert done["seconds"] < 3 * max(before, slowness())
    assert not damage(max((tmp_path / "c").glob("epoch-*")))


def test_memory_that_runs_out_cuts_the_batch_into_parts_that_fit(lives: Mortals, tmp_path: Path) -> None:
    """A batch of 128 images of 96 pixels takes tiny_vgg about 900 MB; the kernel grants less."""
    config = {**BASE, "model_type": "tiny_vgg", "image_height": 96, "image_width": 96, "batch_size": 128, "epochs": 1}
    done = lives.train(tmp_path / "c", config, num_images=136, headroom_mb=500, every_steps=0)
    assert done["status"] == 0
    assert done["parts"] in (2, 4, 8)


def test_memory_that_never_suffices_ends_the_training_with_code_4(lives: Mortals, tmp_path: Path) -> None:
    config = {**BASE, "model_type": "tiny_vgg", "image_height": 512, "image_width": 512, "batch_size": 4, "epochs": 1}
    done = lives.train(tmp_path / "c", config, num_images=12, headroom_mb=60, every_steps=0)
    assert (done["status"], done["error"]) == (4, "OutOfResources")
    assert "Use a smaller --batch-size or image" in done["said"]


def test_what_a_failed_backward_pass_leaves_in_the_queue_is_swept_out() -> None:
    sweeper, held = Sweeper(), torch.zeros(1000)
    gone = weakref.ref(held)
    _fail_a_backward_pass(held)
    del held
    gc.collect()
    assert gone() is not None
    sweeper.sweep()
    assert gone() is None


def _fail_a_backward_pass(held: torch.Tensor) -> None:
    x = torch.zeros(2, requires_grad=True)
    kept, failing = _Keeps.apply(x * 1, held), _Fails.apply(x * 1)
    with pytest.raises(RuntimeError, match="memory"):
        (kept.sum() + failing.sum()).backward()


class _Keeps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        ctx.held = held
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


class _Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def test_a_file_that_cannot_grow_keeps_the_checkpoint_before_and_ends_with_code_4(
    lives: Mortals, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """The limit on a file's length fails a write as a full disk does."""
    folder = tmp_path / "c"
    first = [o.startswith("os.rename") for o in undisturbed["operations"]].index(True)
    lives.train(folder, BASE, die_at=first + 1)
    (before,) = folder.glob("epoch-*")
    done = lives.train(folder, BASE, largest_file=100_000)
    assert (done["status"], done["error"]) == (4, "OutOfResources")
    assert f"The last one, {before.name}, is kept" in done["said"]
    assert [p.name for p in folder.iterdir()] == [before.name]
    assert same(lives.train(folder, BASE), undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB, which holds two checkpoints of the smallest candidate and not three."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_checkpoint_before(examples: Examples, small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk / "c", every_steps=1)
    with pytest.raises(OutOfResources, match=r"The disk is full.*The last one, epoch-000\d-step-\d+, is kept"):
        fit(examples, CONFIG, on_epoch=lambda *_: None, checkpoints=checkpoints)
    assert checkpoints.all()
    assert not any(damage(path) for path in checkpoints.all())
