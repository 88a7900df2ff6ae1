from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.fakes import client_error, object_store, picture
from tire_pipeline.datasets import contents, versions
from tire_pipeline.datasets.contents import read_version
from tire_pipeline.datasets.versions import MANIFEST, READY, Entry, find_marker, push
from tire_pipeline.errors import DataRefused, InputError
from tire_pipeline.stores.objects import ObjectStore


def draw(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(seed) if name.endswith((".png", ".jpg")) else b"text")
    return folder


def upload(store: ObjectStore, version: str, *names: str, marker: bool = True) -> None:
    """As `aws s3 sync` would, then the marker."""
    for seed, name in enumerate(names):
        store.put(f"datasets/{version}/{name}", picture(seed))
    if marker:
        store.put(f"datasets/{version}/{READY}", b"")


def shown(entries: list[Entry]) -> list[tuple[str, str, str, str]]:
    return [(e.path, e.label, e.group, e.split) for e in entries]


def test_a_push_writes_the_images_and_then_the_manifest(tmp_path: Path) -> None:
    store, client = object_store()
    folder = draw(tmp_path, "good/1.png", "bad/a b ü.png", "bad/.DS_Store", "_tmp/2.png", ".git/3.png", "notes.txt")
    made = push(store, folder, version="v1")
    assert (made.num_images, made.uploaded, made.skipped) == (2, 2, ["notes.txt"])
    assert list(client.stored)[-1] == f"datasets/v1/{MANIFEST}"
    assert shown(read_version(store, "v1")) == [("bad/a b ü.png", "bad", "", ""), ("good/1.png", "good", "", "")]
    assert all(len(e.sha256) == 64 for e in read_version(store, "v1"))


def test_the_same_content_again_writes_nothing_and_keeps_the_marker(tmp_path: Path) -> None:
    store, client = object_store()
    folder = draw(tmp_path, "good/1.png", "bad/2.png")
    first = push(store, folder, version="v1")
    before = dict(client.stored)
    again = push(store, folder, version="v1")
    assert (again.uploaded, again.marker) == (0, first.marker)
    assert client.stored == before


def test_changed_content_is_uploaded_alone_and_gives_a_new_marker(tmp_path: Path, store: ObjectStore) -> None:
    folder = draw(tmp_path, "good/1.png", "bad/2.png", "bad/3.png")
    first = push(store, folder, version="v1")
    (folder / "bad/2.png").write_bytes(picture(99))
    (folder / "bad/3.png").unlink()
    second = push(store, folder, version="v1")
    assert second.uploaded == 1
    assert second.marker != first.marker
    assert [e.path for e in read_version(store, "v1")] == ["bad/2.png", "good/1.png"]
    assert store.head("datasets/v1/bad/3.png") is None


def test_a_push_repairs_objects_that_were_lost_or_cut_short(tmp_path: Path, store: ObjectStore) -> None:
    folder = draw(tmp_path, "good/1.png", "bad/2.png", "bad/3.png")
    push(store, folder, version="v1")
    store.delete("datasets/v1/bad/2.png")
    store.put("datasets/v1/bad/3.png", b"short")
    assert push(store, folder, version="v1").uploaded == 2
    assert contents.verify(store, "v1") == 3


def test_a_push_that_dies_halfway_leaves_nothing_to_train_from(tmp_path: Path) -> None:
    store, client = object_store()
    folder = draw(tmp_path, "good/1.png", "bad/2.png")
    push(store, folder, version="v1")
    (folder / "bad/2.png").write_bytes(picture(99, size=50))

    def die(done: int, total: int) -> None:
        client.error = client_error(503, "SlowDown")

    with pytest.raises(Exception, match="SlowDown"):
        push(store, folder, version="v1", progress=die)
    client.error = None
    with pytest.raises(DataRefused, match=r"bad/2\.png"):
        read_version(store, "v1")


def test_labels_csv_beats_folders_and_travels_with_the_version(tmp_path: Path, store: ObjectStore) -> None:
    folder = draw(tmp_path, "x/1.png", "x/2.png")
    (folder / "labels.csv").write_text("path,label,group,split\nx/1.png,bad,t1,test\nx/2.png,,,\n")
    push(store, folder, version="v1")
    assert shown(read_version(store, "v1")) == [("x/1.png", "bad", "t1", "test"), ("x/2.png", "", "", "")]
    assert store.get("datasets/v1/labels.csv").startswith(b"path,label")


@pytest.mark.parametrize(
    ("csv", "said"),
    [
        ("path,label\n1.png,good\ngood/9.png,good\n", "names 2 images that are not there: '1.png', 'good/9.png'"),
        ("path,label\n", "names none of the 1 images"),
    ],
)
def test_a_labels_file_that_does_not_fit_the_folder_uploads_nothing(tmp_path: Path, csv: str, said: str) -> None:
    store, client = object_store()
    folder = draw(tmp_path, "good/1.png")
    (folder / "labels.csv").write_text(csv)
    with pytest.raises(InputError, match=said):
        push(store, folder, version="v1")
    assert client.stored == {}


@pytest.mark.parametrize(("name", "said"), [("absent", "is no folder"), ("empty", "holds no image")])
def test_a_folder_without_images_is_refused(tmp_path: Path, store: ObjectStore, name: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=said):
        push(store, tmp_path / name, version="v1")


@pytest.mark.parametrize("version", ["", "Upper", "a/b", "../x", "-x", "a" * 64, "ü", "a b"])
def test_a_bad_version_name_is_refused_before_anything_is_read(store: ObjectStore, version: str) -> None:
    with pytest.raises(InputError, match="is not a dataset version name"):
        push(store, Path("/nowhere"), version=version)


def test_a_version_without_a_marker_is_never_read(store: ObjectStore) -> None:
    upload(store, "v1", "good/1.png", marker=False)
    with pytest.raises(InputError, match=r"neither _MANIFEST.json nor _READY .* it is still being uploaded"):
        read_version(store, "v1")
    with pytest.raises(InputError, match=r"it is not there. Upload it with `tire dataset push DIR --version v2`"):
        read_version(store, "v2")


def test_a_missing_bucket_is_named_and_not_taken_for_a_missing_version() -> None:
    store, _ = object_store(bucket="tyres")
    with pytest.raises(InputError, match=r"bucket 'tyres' does not exist at http://s3. Create it, or set TIRE_BUCKET"):
        read_version(store, "v1")


def test_a_wrong_key_is_said_with_the_variables_to_look_at() -> None:
    store, client = object_store()
    client.error = client_error(403, "InvalidAccessKeyId")
    with pytest.raises(InputError, match=r"refuses these credentials .*InvalidAccessKeyId.*TIRE_S3_ACCESS_KEY_ID"):
        read_version(store, "v1")


def test_ready_versions_take_classes_and_splits_from_folders_and_skip_hidden_files(store: ObjectStore) -> None:
    upload(store, "v1", "train/good/1.png", "val/bad/2 ü.png", "val/bad/.DS_Store", ".x/3.png", "_old/4.png")
    store.put("datasets/v1/train/", b"")  # the empty object by which S3's console makes a folder
    assert shown(read_version(store, "v1")) == [
        ("train/good/1.png", "good", "", "train"),
        ("val/bad/2 ü.png", "bad", "", "val"),
    ]


def test_ready_versions_follow_their_labels_csv(store: ObjectStore) -> None:
    upload(store, "v1", "x/1.png", "x/2.png")
    store.put("datasets/v1/labels.csv", b"path,label,group\nx/1.png,good,t1\n")
    assert shown(read_version(store, "v1")) == [("x/1.png", "good", "t1", "")]
    store.put("datasets/v1/labels.csv", b"path,label\nx/3.png,good\n")
    with pytest.raises(InputError, match=r"datasets/v1/labels.csv names 1 images that are not there: 'x/3.png'"):
        read_version(store, "v1")


def test_what_differs_from_the_manifest_is_named(tmp_path: Path, store: ObjectStore) -> None:
    push(store, draw(tmp_path, *(f"good/{i}.png" for i in range(5))), version="v1")
    store.put("datasets/v1/good/", b"")
    assert len(read_version(store, "v1")) == 5
    store.put("datasets/v1/extra.png", picture())
    store.put("datasets/v1/good/0.png", b"short")
    for i in (1, 2):
        store.delete(f"datasets/v1/good/{i}.png")
    with pytest.raises(DataRefused, match=r"in 4 keys: 'extra.png', 'good/0.png', 'good/1.png' …"):
        read_version(store, "v1")


def test_the_manifest_counts_where_both_markers_are(tmp_path: Path, store: ObjectStore) -> None:
    upload(store, "v1", "good/1.png")
    ready = find_marker(store, "v1")
    store.put(f"datasets/v1/{READY}", b"")
    touched = find_marker(store, "v1")
    push(store, draw(tmp_path, "good/1.png"), version="v1")
    both = find_marker(store, "v1")
    assert ready is not None
    assert touched is not None
    assert both is not None
    assert (ready.name, touched.name, both.name) == (READY, READY, MANIFEST)
    assert ready.id != touched.id  # the same signal given anew, with the same etag
    assert len(both.id) == 8


def test_versions_are_listed_by_their_markers_and_no_image_is_touched(tmp_path: Path) -> None:
    store, client = object_store()
    for i in range(5):
        upload(store, f"v{i}", "good/1.png", marker=i != 3)
    listing = dict(versions.list_versions(store))
    assert {v for v, marker in listing.items() if marker is None} == {"v3"}
    assert len(listing) == 5
    assert client.read == []


def test_verify_names_images_with_other_bytes_of_the_same_length(tmp_path: Path, store: ObjectStore) -> None:
    push(store, draw(tmp_path, "good/1.png", "good/2.png"), version="v1")
    assert contents.verify(store, "v1") == 2
    data = store.get("datasets/v1/good/2.png")
    store.put("datasets/v1/good/2.png", data[:-1] + b"x")
    with pytest.raises(DataRefused, match=r"1 of 2 images .* 'good/2.png'"):
        contents.verify(store, "v1")


def test_a_pulled_version_is_what_was_pushed_and_overwrites_nothing(tmp_path: Path, store: ObjectStore) -> None:
    folder = draw(tmp_path / "in", "good/1.png", "bad/a b.png")
    push(store, folder, version="v1")
    assert contents.pull(store, "v1", tmp_path / "out") == 2
    assert (tmp_path / "out/bad/a b.png").read_bytes() == (folder / "bad/a b.png").read_bytes()
    with pytest.raises(InputError, match="is not empty"):
        contents.pull(store, "v1", tmp_path / "out")
