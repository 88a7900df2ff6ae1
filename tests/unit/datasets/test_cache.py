from __future__ import annotations

import gc
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from tests.unit.fakes import FakeS3, object_store, picture
from tire_pipeline import imaging
from tire_pipeline.datasets.cache import SPARE_BYTES, CachedFile, ImageCache, Images, open_images, victims
from tire_pipeline.datasets.remote import RemoteImages
from tire_pipeline.datasets.shards import pack
from tire_pipeline.datasets.snapshots import build
from tire_pipeline.errors import DataRefused
from tire_pipeline.stores.objects import ObjectStore

ALL = np.arange(3)


@pytest.fixture
def stored() -> tuple[ObjectStore, FakeS3, pd.DataFrame]:
    store, client = object_store()
    for i in range(3):
        store.put(f"datasets/v1/a/{i}.png", picture(i))
    store.put("datasets/v1/_READY", b"")
    return store, client, build(store, "v1").index


def read(store: ObjectStore, index: pd.DataFrame, folder: Path, *, side: int = 16, max_bytes: int = 10**9) -> Images:
    cache = ImageCache(folder, max_bytes)
    return open_images(store, index, height=side, width=side + 8, how="stretch", cache=cache, name="d")


def size_of(side: int) -> int:
    return 3 * side * (side + 8) * 3


def expected(seeds: tuple[int, ...] = (0, 1, 2), *, side: int = 16) -> imaging.Pixels:
    spec = imaging.Preprocessing(side, side + 8)
    return np.stack([imaging.resize_for(imaging.decode(picture(i)), spec) for i in seeds])


def arrays(folder: Path) -> list[int]:
    return sorted(p.stat().st_size for p in folder.glob("*.u8"))


def test_the_cache_holds_the_decoded_images_in_the_order_of_the_index(tmp_path: Path, stored) -> None:
    store, _, index = stored
    images = read(store, index, tmp_path)
    assert images.shape == (3, 16, 24, 3)
    assert isinstance(images, np.ndarray) and not images.flags.writeable
    assert np.array_equal(images, expected())
    assert np.array_equal(read(store, index.iloc[[2, 0]], tmp_path)[:], expected((2, 0)))


def test_a_second_caller_reads_nothing_and_another_size_reads_the_shard_alone(tmp_path: Path, stored) -> None:
    store, client, index = stored
    read(store, index, tmp_path)
    client.read.clear()
    read(store, index, tmp_path)
    assert client.read == []
    assert read(store, index, tmp_path, side=20).shape == (3, 20, 28, 3)
    assert sum(key.startswith("shards/") for key in client.read) == 1
    assert not [key for key in client.read if key.startswith("datasets/")]


def test_other_labels_and_another_name_share_the_array(tmp_path: Path, stored) -> None:
    store, client, index = stored
    read(store, index, tmp_path)
    client.read.clear()
    cache = ImageCache(tmp_path)
    open_images(store, index.assign(label="b"), height=16, width=24, how="stretch", cache=cache, name="other")
    assert client.read == []


@pytest.mark.parametrize("damage", ["truncate", "unmark", "flip", "tear the mark"])
def test_a_damaged_cache_is_filled_again(tmp_path: Path, stored, caplog, damage: str) -> None:
    store, _, index = stored
    whole = np.array(read(store, index, tmp_path))
    (file,), (mark,) = tmp_path.glob("*.u8"), tmp_path.glob("*.json")
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "flip":
        data = bytearray(file.read_bytes())
        data[700] ^= 1
        file.write_bytes(data)
    elif damage == "tear the mark":
        mark.write_text('{"shape": [3')
    else:
        mark.unlink()
    assert np.array_equal(read(store, index, tmp_path), whole)
    assert ("are damaged; they are decoded again" in caplog.text) == (damage != "unmark")


def test_an_image_that_changed_before_it_was_packed_is_named_and_nothing_is_kept(tmp_path: Path, stored) -> None:
    store, _, index = stored
    store.put("datasets/v1/a/1.png", picture(77))
    with pytest.raises(DataRefused, match=r"datasets/v1/a/1\.png has changed since its snapshot"):
        read(store, index, tmp_path)
    assert not [*tmp_path.glob("*.u8"), *tmp_path.glob("*.part")]


def test_a_snapshot_that_was_packed_outlives_changes_of_its_version(tmp_path: Path, stored) -> None:
    store, _, index = stored
    pack(store, index, name="d")
    store.put("datasets/v1/a/1.png", picture(77))
    assert np.array_equal(read(store, index, tmp_path), expected())


@pytest.mark.parametrize("max_bytes", [10**9, size_of(8)], ids=["cached", "remote"])
def test_a_shard_whose_bytes_changed_is_refused_by_the_name_of_the_image(tmp_path: Path, stored, max_bytes) -> None:
    store, _, index = stored
    packed = pack(store, index, name="d")
    data = bytearray(store.get(packed["shard"][0]))
    data[packed["offset"][1] + 40] ^= 1
    store.put(packed["shard"][0], bytes(data))
    with pytest.raises(DataRefused, match=r"datasets/v1/a/1\.png has changed"):
        read(store, index, tmp_path, max_bytes=max_bytes)[ALL]
    assert arrays(tmp_path) == []


@pytest.mark.parametrize("lacking", ["disk", "cap"])
def test_without_room_the_same_pixels_come_from_the_shards_and_the_log_says_so(
    tmp_path: Path, stored, monkeypatch, caplog, lacking: str
) -> None:
    store, _, index = stored
    if lacking == "disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=SPARE_BYTES))
    images = read(store, index, tmp_path, max_bytes=size_of(16) - (lacking == "cap"))
    assert isinstance(images, RemoteImages)
    assert "every epoch decodes them from shards" in caplog.text
    assert "raise TIRE_CACHE_MAX_BYTES" in caplog.text
    assert (images.shape, len(images)) == ((3, 16, 24, 3), 3)
    assert np.array_equal(images[np.array([2, 0, 2])], expected((2, 0, 2)))
    assert np.array_equal(images[ALL], expected())
    assert arrays(tmp_path) == []


def test_a_disk_that_fills_up_meanwhile_is_no_error_either(tmp_path: Path, stored, monkeypatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    store, _, index = stored
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert isinstance(read(store, index, tmp_path), RemoteImages)
    assert not list(tmp_path.glob("*.part"))


def test_the_array_used_least_recently_goes_first(tmp_path: Path, stored, caplog) -> None:
    store, _, index = stored
    caplog.set_level(logging.INFO)
    cap = size_of(16) + size_of(20) + size_of(8)
    for age, side in ((30, 16), (20, 20)):
        read(store, index, tmp_path, side=side, max_bytes=cap)
        for file in tmp_path.glob("*.u8"):
            if file.stat().st_size == size_of(side):
                os.utime(file, (1_700_000_000 - age,) * 2)
    gc.collect()
    read(store, index, tmp_path, side=16, max_bytes=cap)  # used again: now the younger one
    gc.collect()
    read(store, index, tmp_path, side=10, max_bytes=cap)
    assert arrays(tmp_path) == sorted([size_of(16), size_of(10)])
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert "to make room" in caplog.text


def test_an_array_that_is_mapped_is_not_deleted(tmp_path: Path, stored) -> None:
    store, _, index = stored
    cap = size_of(16) + 1
    held = read(store, index, tmp_path, max_bytes=cap)
    part = held[:1]  # whoever has a piece has the array
    del held
    assert isinstance(read(store, index, tmp_path, side=15, max_bytes=cap), RemoteImages)
    del part
    gc.collect()
    assert isinstance(read(store, index, tmp_path, side=15, max_bytes=cap), np.ndarray)
    assert arrays(tmp_path) == [size_of(15)]


def test_what_a_killed_process_left_half_filled_makes_room(tmp_path: Path, stored) -> None:
    store, _, index = stored
    (tmp_path / "abc.part").write_bytes(b"x" * 500)
    read(store, index, tmp_path, max_bytes=size_of(16) + 499)
    assert not list(tmp_path.glob("*.part"))


def file(name: str, size: int, used_at: float, *, free: bool = True) -> CachedFile:
    return CachedFile(Path(name), size, used_at, free)


@pytest.mark.parametrize(
    ("needed", "max_bytes", "disk_free", "gone"),
    [
        (10, 100, 10**12, []),
        (41, 100, 10**12, ["old"]),
        (61, 100, 10**12, ["old", "new"]),
        (81, 100, 10**12, None),  # what is in use stays
        (10, 100, SPARE_BYTES + 9, ["old"]),
        (10, 100, SPARE_BYTES - 11, ["old", "new"]),
        (10, 100, SPARE_BYTES - 31, None),
    ],
)
def test_just_enough_is_deleted_or_nothing(needed, max_bytes, disk_free, gone) -> None:
    files = [file("new", 20, 3.0), file("busy", 20, 1.0, free=False), file("old", 20, 2.0)]
    chosen = victims(files, needed=needed, max_bytes=max_bytes, disk_free=disk_free)
    assert (None if chosen is None else [str(f.path) for f in chosen]) == gone


def test_who_comes_while_another_fills_waits_for_it(tmp_path: Path, stored) -> None:
    store, client, index = stored
    read(store, index, tmp_path)
    (lock,) = (p for p in tmp_path.glob("*.lock") if p.name != "room.lock")
    for left in (*tmp_path.glob("*.u8"), *tmp_path.glob("*.json")):
        left.unlink()
    client.read.clear()
    with ThreadPoolExecutor(2) as pool:
        with FileLock(lock):
            both = [pool.submit(read, store, index, tmp_path) for _ in range(2)]
            assert wait(both, timeout=0.5).done == set()
        first, second = (f.result() for f in both)
    assert np.array_equal(first, second)
    assert sum(key.startswith("shards/") for key in client.read) == 1
