from __future__ import annotations

import pyarrow as pa
import pytest

from tire_pipeline.datasets import parts
from tire_pipeline.datasets.contents import ENTRIES


def entries(numbers: list[int]) -> pa.Table:
    empty = dict.fromkeys(ENTRIES.names, "")
    rows = [{**empty, "path": f"good/{n:06d}.jpg", "size": 10} for n in sorted(numbers)]
    return pa.Table.from_pylist(rows, schema=ENTRIES)


@pytest.mark.parametrize("size", [20, 50, 400])
def test_shards_follow_one_another_and_are_at_most_twice_the_usual_size(size: int) -> None:
    whole = entries(list(range(10_000)))
    shards = parts.cut(whole, shard_images=size)
    assert pa.concat_tables([s.entries for s in shards]).equals(whole)
    assert max(s.entries.num_rows for s in shards) <= 2 * size


@pytest.mark.parametrize("added", range(5, 10_000, 1_111))
def test_an_image_more_changes_the_shards_around_it_alone(added: int) -> None:
    numbers = list(range(0, 20_000, 2))
    before = {s.part for s in parts.cut(entries(numbers), shard_images=100)}
    after = {s.part for s in parts.cut(entries([*numbers, 2 * added + 1]), shard_images=100)}
    assert len(after - before) <= 3  # of a hundred
