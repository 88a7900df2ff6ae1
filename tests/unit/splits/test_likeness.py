from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.fakes import object_store, picture
from tests.unit.splits.rows import noise_print
from tire_pipeline import splits
from tire_pipeline.datasets import snapshots
from tire_pipeline.datasets.versions import push
from tire_pipeline.errors import InputError
from tire_pipeline.splits import likeness


def folder(root: Path) -> Path:
    """Five pictures, of which two are the same."""
    for name, seed in {"bad/1.png": 1, "bad/2.png": 2, "good/1.png": 3, "good/2.png": 3, "good/3.png": 4}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(seed))
    return root


def test_equal_fingerprints_have_one_number_and_none_has_none() -> None:
    found = splits.compare([noise_print(1), b"", noise_print(2), noise_print(1), b""])
    assert found.code_N.tolist() == [0, -1, 1, 0, -1]
    assert (len(found.one), len(found.other)) == (0, 0)
    assert found.clusters().tolist() == [0, 1, 2, 0, 4]


def test_what_looks_alike_is_found_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, client = object_store()
    push(store, folder(tmp_path), version="v1")
    snapshot = snapshots.build(store, "v1")
    found = splits.likeness_of(store, snapshot)
    assert found.clusters().tolist() == [0, 1, 2, 2, 4]
    client.read.clear()
    again = splits.likeness_of(store, snapshot)
    assert not [key for key in client.read if "fingerprints" in key]
    for one, other in ((found.code_N, again.code_N), (found.one, again.one), (found.other, again.other)):
        assert np.array_equal(one, other)
    monkeypatch.setattr(likeness, "_code", lambda: "another release")  # whose findings may differ
    splits.likeness_of(store, snapshot)
    assert [key for key in client.read if "fingerprints" in key]


def test_a_snapshot_without_fingerprints_is_refused_with_the_way_out(tmp_path: Path) -> None:
    store, _ = object_store()
    push(store, folder(tmp_path), version="v1")
    snapshot = snapshots.build(store, "v1")
    store.delete(snapshots.prints_key(snapshot.digest))
    with pytest.raises(InputError, match=r"older release. Take it again: `tire validate VERSION`"):
        snapshots.load_fingerprints(store, snapshot)
