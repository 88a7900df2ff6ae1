from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests.unit.fakes import FakeS3, object_store, picture
from tire_pipeline import imaging
from tire_pipeline.datasets.cache import open_images
from tire_pipeline.datasets.snapshots import build
from tire_pipeline.errors import DataRefused, OutOfResources
from tire_pipeline.stores.objects import ObjectStore


@pytest.fixture
def stored() -> tuple[ObjectStore, FakeS3, pd.DataFrame]:
    store, client = object_store()
    for i in range(3):
        store.put(f"datasets/v1/a/{i}.png", picture(i))
    store.put("datasets/v1/_READY", b"")
    return store, client, build(store, "v1").index


def read(store: ObjectStore, index: pd.DataFrame, folder: Path, *, side: int = 16, name: str = "d") -> imaging.Pixels:
    return open_images(store, index, height=side, width=side + 8, folder=folder, name=name)


def test_the_cache_holds_the_decoded_images_in_the_order_of_the_index(tmp_path: Path, stored) -> None:
    store, _, index = stored
    images = read(store, index, tmp_path)
    assert images.shape == (3, 16, 24, 3)
    assert not images.flags.writeable
    for i in range(3):
        expected = imaging.resize(imaging.decode(picture(i)), height=16, width=24)
        assert np.array_equal(images[i], expected)


def test_a_second_caller_reads_nothing_and_another_size_is_another_file(tmp_path: Path, stored) -> None:
    store, client, index = stored
    read(store, index, tmp_path)
    client.read.clear()
    read(store, index, tmp_path)
    assert client.read == []
    assert read(store, index, tmp_path, side=20).shape == (3, 20, 28, 3)
    assert len(client.read) == 3


@pytest.mark.parametrize("damage", ["truncate", "unmark"])
def test_a_cache_that_was_cut_short_is_filled_again(tmp_path: Path, stored, damage: str) -> None:
    store, _, index = stored
    whole = np.array(read(store, index, tmp_path))
    if damage == "truncate":
        (file,) = tmp_path.glob("*.u8")
        file.write_bytes(file.read_bytes()[:100])
    else:
        (mark,) = tmp_path.glob("*.json")
        mark.unlink()
    assert np.array_equal(read(store, index, tmp_path), whole)


def test_an_image_that_changed_after_indexing_is_named_and_nothing_is_kept(tmp_path: Path, stored) -> None:
    store, _, index = stored
    store.put("datasets/v1/a/1.png", picture(77))
    with pytest.raises(DataRefused, match=r"datasets/v1/a/1\.png has changed since its snapshot"):
        read(store, index, tmp_path)
    assert not list(tmp_path.glob("*.u8"))


def test_a_full_disk_is_said_before_anything_is_read(tmp_path: Path, stored, monkeypatch) -> None:
    store, client, index = stored
    client.read.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=400_000_000))
    with pytest.raises(OutOfResources, match=r"has 0\.4 GB free. Free some space, or set TIRE_HOME to a larger disk"):
        read(store, index, tmp_path)
    assert client.read == []
