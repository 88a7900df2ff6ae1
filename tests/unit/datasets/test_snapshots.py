from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.fakes import FakeS3, object_store, picture
from tire_pipeline.datasets.snapshots import Snapshot, build, load
from tire_pipeline.datasets.versions import push
from tire_pipeline.errors import DataRefused, InputError
from tire_pipeline.stores.objects import ObjectStore


def folder(root: Path, *, labels: str = "") -> Path:
    for seed, name in enumerate(("bad/1.png", "bad/2.png", "good/3.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(seed))
    if labels:
        (root / "labels.csv").write_text(labels)
    return root


def images_read(client: FakeS3) -> list[str]:
    return [k for k in client.read if k.endswith(".png")]


def test_the_index_has_a_row_an_image_with_its_facts(tmp_path: Path, store: ObjectStore) -> None:
    push(store, folder(tmp_path), version="v1")
    snapshot = build(store, "v1")
    assert len(snapshot.digest) == 64
    assert snapshot.index["path"].tolist() == ["bad/1.png", "bad/2.png", "good/3.png"]
    row = snapshot.index.iloc[0]
    assert (row["label"], row["format"], row["mode"], row["width"], row["height"]) == ("bad", "PNG", "RGB", 40, 40)
    assert 100 < row["brightness"] < 150
    assert row["group"] == row["sha256"][:16]
    assert load(store, snapshot.digest).index.equals(snapshot.index)


@pytest.mark.parametrize("labels", ["", "path,label,group\nbad/1.png,bad,t1\ngood/3.png,good,t2\nbad/2.png,bad,\n"])
def test_an_unchanged_version_is_not_read_again(tmp_path: Path, labels: str) -> None:
    store, client = object_store()
    push(store, folder(tmp_path, labels=labels), version="v1")
    first = build(store, "v1")
    client.read.clear()
    written = dict(client.stored)
    again = build(store, "v1")
    assert again.cached
    assert images_read(client) == []
    assert again.digest == first.digest
    assert again.index.equals(first.index)
    assert client.stored == written


def test_the_digest_follows_content_and_labels_but_not_the_versions_name(tmp_path: Path, store: ObjectStore) -> None:
    push(store, folder(tmp_path / "a"), version="v1")
    push(store, folder(tmp_path / "a"), version="v2")
    labels = "path,label,group\nbad/1.png,bad,t1\nbad/2.png,bad,t2\ngood/3.png,good,t3\n"
    push(store, folder(tmp_path / "b", labels=labels), version="v3")
    push(store, folder(tmp_path / "c", labels=labels.replace("2.png,bad", "2.png,good")), version="v4")
    first, second, third, fourth = (build(store, f"v{i}").digest for i in (1, 2, 3, 4))
    assert first == second
    assert len({first, third, fourth}) == 3


def test_the_same_content_elsewhere_is_read_from_where_it_lies_now(tmp_path: Path, store: ObjectStore) -> None:
    push(store, folder(tmp_path / "a"), version="v1")
    push(store, folder(tmp_path / "a"), version="v2")
    build(store, "v1")
    digest = build(store, "v2").digest
    assert load(store, digest).index["key"].str.startswith("datasets/v2/").all()


def test_splits_given_later_are_seen_though_the_digest_is_the_same(tmp_path: Path, store: ObjectStore) -> None:
    labels = "path,label,split\nbad/1.png,bad,{0}\nbad/2.png,bad,val\ngood/3.png,good,test\n"
    push(store, folder(tmp_path, labels=labels.format("train")), version="v1")
    first = build(store, "v1")
    push(store, folder(tmp_path, labels=labels.format("test")), version="v1")
    second = build(store, "v1")
    assert second.digest == first.digest
    assert load(store, second.digest).index["split"].tolist() == ["test", "val", "test"]


@pytest.mark.parametrize("pushed", [True, False])
def test_other_columns_of_labels_csv_are_in_the_index_and_change_no_digest(tmp_path: Path, pushed: bool) -> None:
    store, client = object_store()
    labels = "path,label{0}\nbad/1.png,bad{1}\nbad/2.png,bad{2}\ngood/3.png,good{1}\n"
    plain, viewed = labels.format("", "", "", ""), labels.format(",view,line", ",side,1", ",tread,1")
    first = take_labelled(store, folder(tmp_path, labels=plain), pushed=pushed)
    client.read.clear()
    second = take_labelled(store, folder(tmp_path, labels=viewed), pushed=pushed)
    assert (second.digest, images_read(client)) == (first.digest, [])
    assert first.index["columns"].tolist() == [""] * 3
    assert load(store, second.digest).index["columns"].tolist() == [
        f'{{"view":"{v}"}}' for v in ("side", "tread", "side")
    ]


def take_labelled(store: ObjectStore, images: Path, *, pushed: bool) -> Snapshot:
    """A snapshot of the folder, pushed or uploaded by other means."""
    if pushed:
        push(store, images, version="v1")
    else:
        for path in images.rglob("*.*"):
            key = f"datasets/v1/{path.relative_to(images).as_posix()}"
            if store.head(key) is None or path.suffix == ".csv":
                store.put(key, path.read_bytes())
        store.put("datasets/v1/_READY", b"")
    return build(store, "v1")


def test_files_that_are_no_images_are_quarantined_with_their_reason(store: ObjectStore) -> None:
    files = {"a/1.png": picture(), "a/2.png": b"", "a/3.png": picture()[:-40], "a/4.jpg": b"text", "a/5.txt": b"x"}
    for name, data in files.items():
        store.put(f"datasets/v1/{name}", data)
    store.put("datasets/v1/_READY", b"")
    snapshot = build(store, "v1")
    errors = dict(zip(snapshot.index["path"], snapshot.index["error"], strict=True))
    assert errors["a/1.png"] == ""
    assert "empty (0 bytes)" in errors["a/2.png"]
    assert "no readable image" in errors["a/3.png"]
    assert "no readable image" in errors["a/4.jpg"]
    assert "no image by its name" in errors["a/5.txt"]
    assert snapshot.usable["path"].tolist() == ["a/1.png"]


def test_unlabelled_rows_are_indexed_but_left_out_of_training(tmp_path: Path, store: ObjectStore) -> None:
    labels = "path,label\nbad/1.png,bad\nbad/2.png,\ngood/3.png,good\n"
    push(store, folder(tmp_path, labels=labels), version="v1")
    snapshot = build(store, "v1")
    assert len(snapshot.index) == 3
    assert snapshot.usable["path"].tolist() == ["bad/1.png", "good/3.png"]


def test_bytes_that_differ_from_the_manifest_are_named(tmp_path: Path, store: ObjectStore) -> None:
    push(store, folder(tmp_path), version="v1")
    data = store.get("datasets/v1/bad/2.png")
    store.put("datasets/v1/bad/2.png", data[:-1] + b"x")
    with pytest.raises(DataRefused, match=r"1 images of dataset version 'v1' have other bytes .* 'bad/2\.png'"):
        build(store, "v1")


def test_an_empty_version_is_refused(store: ObjectStore) -> None:
    store.put("datasets/v1/_READY", b"")
    with pytest.raises(DataRefused, match=r"'v1' holds no image. Push a folder with images, a class each"):
        build(store, "v1")


def test_progress_ends_at_the_number_of_images(tmp_path: Path, store: ObjectStore) -> None:
    push(store, folder(tmp_path), version="v1")
    seen: list[tuple[int, int]] = []
    build(store, "v1", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (3, 3)


def test_a_snapshot_that_does_not_exist_is_an_input_error(store: ObjectStore) -> None:
    with pytest.raises(InputError, match=r"snapshots/abc/index.parquet does not exist"):
        load(store, "abc")
