from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.fakes import FakeS3, object_store
from tire_pipeline.stores.objects import ObjectStore
from tire_pipeline.training.checkpoints import Checkpoints, damage
from tire_pipeline.training.mirror import S3Mirror

PREFIX = "runs/k/checkpoints/"


def save(checkpoints: Checkpoints, epoch: int, *, step: int = 0, urgent: bool = False) -> None:
    tensors = {"w": torch.full((4, 3), float(epoch)).T}  # not contiguous, as the weights of a convolution may be
    checkpoints.save(tensors, {"epoch": epoch}, epoch=epoch, step=step, urgent=urgent)


def mirrored(folder: Path, store: ObjectStore, *, every_s: float = 0.0) -> Checkpoints:
    return Checkpoints(folder, mirror=S3Mirror(store, PREFIX, every_s=every_s))


def stored(s3: FakeS3) -> list[str]:
    return sorted({key.removeprefix(PREFIX).split("/")[0] for key in s3.stored})


def test_what_is_saved_is_what_is_read_and_three_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.newest() is None
    for epoch, step in ((1, 0), (1, 7), (2, 0), (10, 0)):
        save(checkpoints, epoch, step=step)
    names = [path.name for path in checkpoints.all()]
    assert names == ["epoch-0001-step-000007", "epoch-0002-step-000000", "epoch-0010-step-000000"]
    tensors, numbers = checkpoints.newest() or ({}, {})
    assert torch.equal(tensors["w"], torch.full((3, 4), 10.0))
    assert numbers == {"epoch": 10}
    checkpoints.clear()
    assert checkpoints.newest() is None


def test_within_an_epoch_one_is_due_by_steps_or_by_time(tmp_path: Path) -> None:
    by_steps = Checkpoints(tmp_path, every_s=0.0, every_steps=3)
    assert [step for step in range(1, 8) if by_steps.due(step)] == [3, 6]
    by_time = Checkpoints(tmp_path, every_s=1000.0)
    assert not by_time.due(1)
    by_time.every_s = 1e-9
    assert by_time.due(1)


def test_another_machine_goes_on_from_the_copy_in_s3(tmp_path: Path) -> None:
    store, s3 = object_store()
    here = mirrored(tmp_path / "here", store)
    for epoch in (1, 2, 3, 4):
        save(here, epoch)
        here.mirror.close()  # type: ignore[union-attr]  # so that every one is copied
    assert stored(s3) == [f"epoch-000{n}-step-000000" for n in (2, 3, 4)]
    there = mirrored(tmp_path / "there", store)
    _, numbers = there.newest() or ({}, {})
    assert numbers == {"epoch": 4}
    assert [path.name for path in there.all()] == ["epoch-0004-step-000000"]


def test_what_is_newer_here_is_not_fetched(tmp_path: Path) -> None:
    store, s3 = object_store()
    here = mirrored(tmp_path / "here", store)
    save(here, 1)
    here.mirror.close()  # type: ignore[union-attr]
    here.mirror = S3Mirror(store, PREFIX, every_s=1000.0)
    save(here, 2)
    read = len(s3.read)
    assert (here.newest() or ({}, {}))[1] == {"epoch": 2}
    assert len(s3.read) == read


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "complete.json"])
def test_a_copy_that_is_damaged_or_was_never_finished_is_passed_over(tmp_path: Path, file: str) -> None:
    store, s3 = object_store()
    here = mirrored(tmp_path / "here", store)
    for epoch in (1, 2):
        save(here, epoch)
        here.mirror.close()  # type: ignore[union-attr]
    key = f"{PREFIX}epoch-0002-step-000000/{file}"
    if file == "complete.json":
        store.delete(key)
    else:
        store.put(key, s3.stored[key][0][:-1] + b"?")
    assert (mirrored(tmp_path / "there", store).newest() or ({}, {}))[1] == {"epoch": 1}


def test_a_mirror_that_does_not_answer_stops_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, _ = object_store(bucket="elsewhere")
    checkpoints = mirrored(tmp_path / "c", store)
    save(checkpoints, 1)
    checkpoints.mirror.close()  # type: ignore[union-attr]
    assert (
        "checkpoint epoch-0001-step-000000 was not copied to S3: The bucket 'elsewhere' does not exist" in caplog.text
    )
    assert not damage(checkpoints.all()[0])
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["epoch-0001-step-000000"]


def test_copies_are_made_at_most_every_so_often_but_at_once_where_it_is_urgent(tmp_path: Path) -> None:
    store, s3 = object_store()
    checkpoints = mirrored(tmp_path / "c", store, every_s=1000.0)
    save(checkpoints, 1)
    assert stored(s3) == []
    save(checkpoints, 2, urgent=True)
    assert stored(s3) == ["epoch-0002-step-000000"]


def test_starting_anew_forgets_the_copies(tmp_path: Path) -> None:
    store, s3 = object_store()
    checkpoints = mirrored(tmp_path / "c", store)
    save(checkpoints, 1, urgent=True)
    checkpoints.clear()
    S3Mirror(store, PREFIX).clear()
    assert not s3.stored
    assert checkpoints.newest() is None
