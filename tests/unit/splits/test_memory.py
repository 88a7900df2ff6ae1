from __future__ import annotations

import io
from collections.abc import Callable

import pandas as pd
import pytest

from tests.unit.fakes import FakeS3, object_store
from tests.unit.splits.rows import tyres
from tire_pipeline import splits
from tire_pipeline.errors import DataRefused, ServiceUnavailable
from tire_pipeline.splits.memory import assign_and_remember
from tire_pipeline.stores.objects import ObjectStore

KEY = "splits/tire/seed-0.parquet"


class Rival(ObjectStore):
    """A store into which another split is written just before each of the first `num` writes."""

    def __init__(self, client: FakeS3, *, num: int, write: Callable[[ObjectStore], object]) -> None:
        super().__init__(client, bucket="tire", where="http://s3")
        self.num, self.write = num, write
        self.other = ObjectStore(client, bucket="tire", where="http://s3")

    def put_if(self, key: str, data: bytes, **options: str) -> bool:  # type: ignore[override]
        if self.num:
            self.num -= 1
            self.write(self.other)
        return super().put_if(key, data, **options)  # type: ignore[arg-type]


def remembered(store: ObjectStore, key: str = KEY) -> dict[str, str]:
    frame = pd.read_parquet(io.BytesIO(store.get(key)))
    return dict(zip(frame["sha256"], frame["side"], strict=True))


def test_every_image_is_remembered_with_its_side(store: ObjectStore) -> None:
    index = tyres(40)
    made = assign_and_remember(store, index, project="tire", seed=0)
    assert remembered(store) == dict(zip(index["sha256"], made.sides, strict=True))


def test_a_split_that_is_made_again_is_the_same_and_writes_nothing() -> None:
    store, s3 = object_store()
    index = tyres(40)
    made = assign_and_remember(store, index, project="tire", seed=0)
    before = dict(s3.stored)
    assert assign_and_remember(store, index, project="tire", seed=0).sides.equals(made.sides)
    assert s3.stored == before


def test_images_that_a_version_lacks_are_remembered_for_a_later_one(store: ObjectStore) -> None:
    index = tyres(80)
    made = assign_and_remember(store, index, project="tire", seed=0)
    assign_and_remember(store, index[:120], project="tire", seed=0)
    assert len(remembered(store)) == 240
    assert assign_and_remember(store, index, project="tire", seed=0).sides.equals(made.sides)


def test_projects_and_seeds_have_memories_of_their_own(store: ObjectStore) -> None:
    index = tyres(40)
    one, other = (assign_and_remember(store, index, project="tire", seed=seed).sides for seed in (0, 1))
    assert not one.equals(other)
    assert assign_and_remember(store, index, project="pitting", seed=0).sides.equals(one)
    assert [o.key for o in store.list("splits/")] == [
        "splits/pitting/seed-0.parquet",
        "splits/tire/seed-0.parquet",
        "splits/tire/seed-1.parquet",
    ]


def test_a_split_that_is_refused_is_not_remembered(store: ObjectStore) -> None:
    with pytest.raises(DataRefused):
        assign_and_remember(store, tyres(2), project="tire", seed=0)
    assert store.head(KEY) is None


def test_of_two_splits_at_once_the_second_decides_by_what_the_first_did() -> None:
    client = FakeS3("tire")
    theirs, ours = tyres(40), tyres(80)

    def write(store: ObjectStore) -> splits.Split:
        return assign_and_remember(store, theirs, project="tire", seed=0)

    made = assign_and_remember(Rival(client, num=1, write=write), ours, project="tire", seed=0)
    first = write(object_store()[0])
    assert made.sides[: len(theirs)].equals(first.sides)
    assert len(remembered(ObjectStore(client, bucket="tire", where="http://s3"))) == 240


def test_a_memory_that_others_write_all_the_time_is_given_up_with_the_reason() -> None:
    rows = iter(range(1, 100))

    def write(store: ObjectStore) -> None:
        assign_and_remember(store, tyres(20 + next(rows)), project="tire", seed=0)

    store = Rival(FakeS3("tire"), num=99, write=write)
    with pytest.raises(ServiceUnavailable, match=f"s3://tire/{KEY} was changed by others 5 times .* Try again"):
        assign_and_remember(store, tyres(200), project="tire", seed=0)
