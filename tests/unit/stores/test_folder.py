"""A folder must answer as S3 does; what is asked here is asked of the real S3 in tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tire_pipeline.errors import InputError
from tire_pipeline.stores.folder import FolderClient, FolderTracking
from tire_pipeline.stores.objects import ObjectStore


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(FolderClient(tmp_path), bucket="tire", where=str(tmp_path))


def test_what_is_written_is_read_listed_and_deleted(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(b"0123456789")
    store.put_file("a/x.bin", tmp_path / "in.bin")
    store.put("a/b/y", b"y")
    assert store.get("a/x.bin") == b"0123456789"
    assert store.get_range("a/x.bin", start=2, length=3) == b"234"
    assert [o.key for o in store.list("a/")] == ["a/b/y", "a/x.bin"]
    assert list(store.list_folders("a/")) == ["b"]
    store.delete("a/x.bin")
    store.delete("a/x.bin")
    assert store.head("a/x.bin") is None
    with pytest.raises(InputError, match="does not exist"):
        store.get("a/x.bin")


def test_a_condition_on_the_etag_holds(store: ObjectStore) -> None:
    assert store.put_if("k", b"one", etag="")
    assert not store.put_if("k", b"two", etag="")
    first = store.head("k")
    assert first
    assert store.put_if("k", b"three", etag=first.etag)
    assert not store.put_if("k", b"four", etag=first.etag)
    with pytest.raises(InputError, match="was changed"):
        store.get("k", etag=first.etag)


def test_a_run_is_kept_as_files(tmp_path: Path) -> None:
    tracking = FolderTracking(tmp_path / "runs", project="p")
    run_id = tracking.start_run("cnn", params={"epochs": 2}, tags={"a": "1"})
    tracking.log_metrics(run_id, {"loss": 0.5}, step=1)
    tracking.set_tags(run_id, {"b": "2"})
    tracking.end_run(run_id)
    folder = tmp_path / "runs" / run_id
    assert '"status": "FINISHED"' in (folder / "run.json").read_text()
    assert '"b": "2"' in (folder / "run.json").read_text()
    assert '"loss": 0.5' in (folder / "metrics.jsonl").read_text()
