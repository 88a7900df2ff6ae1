from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest

from tests.unit.fakes import FakeS3, object_store
from tire_pipeline.datasets import shards
from tire_pipeline.datasets.shards import SHARD_BYTES, pack, plan
from tire_pipeline.errors import DataRefused
from tire_pipeline.stores.objects import ObjectStore


def index_of(contents: dict[str, bytes]) -> pd.DataFrame:
    rows = [(p, f"datasets/v/{p}", hashlib.sha256(b).hexdigest(), len(b)) for p, b in contents.items()]
    return pd.DataFrame(rows, columns=["path", "key", "sha256", "bytes"])


def images(paths: list[int], *, size: int = 40_000) -> pd.DataFrame:
    sha256 = [hashlib.sha256(str(p).encode()).hexdigest() for p in paths]
    names = [f"{p:09d}.jpg" for p in paths]
    return pd.DataFrame({"path": names, "key": names, "sha256": sha256, "bytes": size})


@pytest.fixture
def stored() -> tuple[ObjectStore, FakeS3, dict[str, bytes]]:
    store, client = object_store()
    contents = {f"{name}.png": name.encode() * 5 for name in ("b", "a", "d", "c")}
    for path, data in contents.items():
        store.put(f"datasets/v/{path}", data)
    return store, client, contents


def written(client: FakeS3) -> dict[str, object]:
    return {k: stamp for k, (_, _, stamp) in client.stored.items() if not k.startswith("datasets/")}


def test_every_image_is_found_where_the_index_says(stored, monkeypatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 8)
    store, _, contents = stored
    index = index_of(contents)
    packed = pack(store, index, name="d").set_index("sha256")
    assert packed["shard"].nunique() > 1
    for path, sha256 in zip(index["path"], index["sha256"], strict=True):
        where = packed.loc[sha256]
        shard = store.get(where["shard"])
        assert shard[where["offset"] : where["offset"] + where["length"]] == contents[path]


def test_packing_again_reads_no_image_and_writes_nothing(stored) -> None:
    store, client, contents = stored
    first = pack(store, index_of(contents), name="d")
    before = written(client)
    client.read.clear()
    assert pack(store, index_of(contents), name="d").equals(first)
    assert written(client) == before
    assert client.read == ["snapshots/d/shards.parquet"]


def test_what_was_interrupted_is_completed_from_where_it_was(stored, monkeypatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 4)
    store, client, contents = stored
    packed = pack(store, index_of(contents), name="d")
    lost = packed["shard"].iloc[-1]
    store.delete(lost)
    store.delete("snapshots/d/shards.parquet")
    client.read.clear()
    assert pack(store, index_of(contents), name="d").equals(packed)
    assert store.head(lost) is not None
    assert client.read == ["datasets/v/d.png"]


def test_a_relabelled_snapshot_shares_all_shards(stored) -> None:
    store, client, contents = stored
    pack(store, index_of(contents), name="d")
    client.read.clear()
    pack(store, index_of(contents).assign(label="x"), name="e")
    assert client.read == []


def test_an_object_that_changed_is_named_and_its_shard_is_not_written(stored) -> None:
    store, client, contents = stored
    index = index_of(contents)
    store.put("datasets/v/c.png", b"other")
    with pytest.raises(DataRefused, match=r"datasets/v/c\.png has changed since its snapshot was taken"):
        pack(store, index, name="d")
    assert written(client) == {}


def test_shards_have_about_32_mb_and_lie_in_the_order_of_paths() -> None:
    planned = plan(images(list(np.random.default_rng(0).permutation(20_000))))
    sizes = planned.groupby("shard", sort=False)["length"].sum()
    assert sizes.iloc[:-1].between(SHARD_BYTES * 0.5, SHARD_BYTES * 1.5 + 40_000).all()
    assert 0.75 * SHARD_BYTES < sizes.mean() < 1.25 * SHARD_BYTES
    assert planned["sha256"].tolist() == images(list(range(20_000)))["sha256"].tolist()
    offsets = planned.groupby("shard", sort=False)["length"].cumsum() - planned["length"]
    assert planned["offset"].equals(offsets)


def test_a_grown_version_keeps_nearly_all_shards_wherever_the_new_images_sort() -> None:
    old = plan(images(list(range(0, 40_000, 2))))
    grown = plan(images([*range(0, 40_000, 2), *range(10_001, 11_001, 2)]))
    new = set(grown["shard"]) - set(old["shard"])
    assert 1 <= len(new) <= 4
    assert grown["shard"].nunique() > 20


def test_one_content_is_stored_once_and_an_image_larger_than_a_shard_has_one_of_its_own() -> None:
    twice = pd.concat([images([1, 2]), images([1]).assign(path="z.jpg")])
    assert len(plan(twice)) == 2
    huge = plan(images([1, 2, 3], size=2 * SHARD_BYTES))
    assert huge["shard"].nunique() == 3
    assert (huge["offset"] == 0).all()
