"""A training that is killed and goes on ends with the very weights of one that was left alone, bit for bit."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model.dying import Mortals, mortals
from tire_pipeline.training.device import bf16_problem

BASE = {"model_type": "cnn", "epochs": 3, "batch_size": 8, "image_height": 32, "image_width": 32, "threads": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ema": {"ema_decay": 0.9},
    "mixup": {"mixing": "mixup"},
    "mixup or cutmix": {"mixing": "both", "loss": "focal"},
    "accumulation": {"accumulation": 4, "gradient_clip": 1.0},
    "bf16": {"precision": "bf16"},
    "cosine": {"scheduler": "cosine", "warmup_epochs": 1, "optimizer_type": "sgd"},
    "plateau": {"scheduler": "plateau", "optimizer_type": "rmsprop"},
    "step": {"scheduler": "step", "step_epochs": 1, "optimizer_type": "radam"},
    "crops": {"augmentation": "crop", "optimizer_type": "nadam"},
    "contiguous": {"channels_last": False, "class_weights": "balanced"},
    "frozen at first": {"freeze_epochs": 1, "augmentation": "none", "ema_decay": 0.5},
    "resnet": {"model_type": "resnet18", "epochs": 2, "batch_size": 12},
}


@pytest.fixture(scope="module")
def lives() -> Iterator[Mortals]:
    with mortals() as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(lives: Mortals, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = lives.train(tmp_path_factory.mktemp("undisturbed") / "c", BASE)
    assert done["status"] == 0
    return done


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["weights"] == other["weights"] and one["figures"] == other["figures"]


def test_checkpoints_change_nothing(lives: Mortals, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    assert same(lives.train(tmp_path / "c", BASE, every_steps=0), undisturbed)


def test_killed_at_every_file_operation_of_a_save_it_goes_on_to_the_same_weights(
    lives: Mortals, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    operations = undisturbed["operations"]
    marks = [i for i, o in enumerate(operations) if o.startswith("os.mkdir") and "/." in o]
    first, after = marks[-3], marks[-2]  # a save of the last epoch, with an older checkpoint to delete
    assert {o.split()[0] for o in operations[first:after]} >= {"open", "os.rename", "os.rmdir", "os.mkdir"}
    for operation in range(first, after):
        folder = tmp_path / str(operation)
        assert lives.train(folder, BASE, die_at=operation)["status"] == -signal.SIGKILL, operations[operation]
        again = lives.train(folder, BASE)
        assert same(again, undisturbed), operations[operation]
        assert again["told"] == [0, 1, 2]  # the epochs before the checkpoint are told again


@pytest.mark.parametrize("variant", [pytest.param(v, marks=pytest.mark.soak) if v == "resnet" else v for v in VARIANTS])
def test_killed_within_an_epoch_it_goes_on_to_the_same_weights(lives: Mortals, variant: str, tmp_path: Path) -> None:
    config = {**BASE, **VARIANTS[variant]}
    if config.get("precision") == "bf16" and bf16_problem():
        pytest.skip("bf16 does not work on this CPU")
    whole = lives.train(tmp_path / "whole", config)
    assert whole["status"] == 0
    renames = [i for i, o in enumerate(whole["operations"]) if o.startswith("os.rename")]
    for rename in (renames[0], renames[len(renames) // 2]):  # in the first epoch, and in a later one
        assert lives.train(tmp_path / f"{rename}", config, die_at=rename + 1)["status"] == -signal.SIGKILL
        assert same(lives.train(tmp_path / f"{rename}", config), whole)


def die_again_and_again(
    lives: Mortals, folder: Path, config: dict[str, Any], kills: int, rng: random.Random, longest_s: float
) -> dict[str, Any]:
    """The training's end, after `kills` of its lives were ended at random moments."""
    died = 0
    while died < kills:
        done = lives.train(folder, config, die_after_s=rng.uniform(0, longest_s))
        if done["status"] == 0:
            return {**done, "died": died}
        assert done["status"] == -signal.SIGKILL
        died += 1
    return {**lives.train(folder, config), "died": died}


def test_killed_at_random_moments_it_goes_on_to_the_same_weights(
    lives: Mortals, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    done = die_again_and_again(lives, tmp_path / "c", BASE, 5, random.Random(0), longest_s=0.6)
    assert done["status"] == 0
    assert same(done, undisturbed)


@pytest.mark.soak
@pytest.mark.parametrize("variant", ["plain", "ema", "mixup", "accumulation", "bf16"])
def test_killed_fifty_times_it_goes_on_to_the_same_weights(lives: Mortals, variant: str, tmp_path: Path) -> None:
    config = {**BASE, **VARIANTS[variant]}
    if config.get("precision") == "bf16" and bf16_problem():
        pytest.skip("bf16 does not work on this CPU")
    whole = lives.train(tmp_path / "whole", config)
    rng, died, trainings = random.Random(1), 0, 0
    while died < 50:
        trainings += 1
        done = die_again_and_again(lives, tmp_path / f"{trainings}", config, 50 - died, rng, longest_s=0.5)
        assert same(done, whole)
        died += done["died"]
    print(f"\n{variant}: {died} kills in {trainings} trainings, the same weights each time")  # noqa: T201


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "complete.json"])
@pytest.mark.parametrize("harm", ["cut off", "a bit", "gone"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    lives: Mortals, undisturbed: dict[str, Any], file: str, harm: str, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    lives.train(folder, BASE, die_at=[o.startswith("os.rename") for o in undisturbed["operations"]].index(True) + 60)
    newest = max(folder.glob("epoch-*"))
    assert len(list(folder.glob("epoch-*"))) > 1
    spoil(newest / file, harm)
    assert same(lives.train(folder, BASE), undisturbed)


def spoil(path: Path, harm: str) -> None:
    data = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
        return
    if harm == "a bit":
        data[-3] ^= 1
    path.write_bytes(data if harm == "a bit" else data[: len(data) // 2])
