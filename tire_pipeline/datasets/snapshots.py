"""Snapshots: the immutable, content-addressed reading of a dataset version.

The index is one row an image:

    path, key, sha256, etag, bytes, label, group, split, format, mode, width, height, camera,
    brightness (0..255), contrast, sharpness, error (why the image is quarantined, else empty)
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from tire_pipeline import imaging
from tire_pipeline.datasets.versions import Entry, prefix_of, read_version
from tire_pipeline.errors import DataRefused, InputError
from tire_pipeline.refs import digest_of
from tire_pipeline.stores.objects import ObjectStore

NO_FACTS = {
    "format": "",
    "mode": "",
    "width": 0,
    "height": 0,
    "camera": "",
    "brightness": 0.0,
    "contrast": 0.0,
    "sharpness": 0.0,
}


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's digest (64 hex digits) and index. `cached`: read back, not built again."""

    digest: str
    index: pd.DataFrame
    cached: bool

    @property
    def usable(self) -> pd.DataFrame:
        """Rows to train from: readable and labelled."""
        return self.index[(self.index["error"] == "") & (self.index["label"] != "")]


def folder_of(digest: str) -> str:
    return f"snapshots/{digest}/"


def build(store: ObjectStore, version: str, *, progress: Callable[[int, int], None] | None = None) -> Snapshot:
    """Read every image of the version once and index it; write the index under its digest.

    An object that has the etag it had when it was indexed is not read again. Raises DataRefused where bytes differ
    from the sha256 that the manifest states, naming the first keys.
    """
    entries = read_version(store, version)
    if not entries:
        raise DataRefused(f"The dataset version {version!r} holds no image. Push a folder with images, a class each.")
    keys = [prefix_of(version) + e.path for e in entries]
    if (cached := _find(store, entries, keys)) is not None:
        return cached
    rows: list[dict[str, Any]] = []
    for entry, key, data in zip(entries, keys, store.get_many(keys), strict=True):
        rows.append(_index_row(entry, key, data))
        if progress:
            progress(len(rows), len(keys))
    _check_bytes(entries, [r["sha256"] for r in rows], version)
    index = pd.DataFrame(rows)
    digest = _digest([(r["path"], r["sha256"], r["label"], r["group"]) for r in rows])
    write_frame(store, folder_of(digest) + "index.parquet", index)
    return Snapshot(digest, index, cached=False)


def load(store: ObjectStore, digest: str) -> Snapshot:
    """The snapshot by its digest. Raises InputError when it does not exist."""
    return Snapshot(digest, read_frame(store, folder_of(digest) + "index.parquet"), cached=True)


def read_frame(store: ObjectStore, key: str) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(store.get(key)))


def write_frame(store: ObjectStore, key: str, frame: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    store.put(key, buffer.getvalue())


def _find(store: ObjectStore, entries: Sequence[Entry], keys: Sequence[str]) -> Snapshot | None:
    """The stored snapshot of these entries if each object still has the etag that was indexed.

    The keys and the given splits are no part of the digest: the index is written anew with those of this version.
    """
    if not all(e.sha256 for e in entries):
        return None
    digest = _digest([(e.path, e.sha256, e.label, _group(e, e.sha256)) for e in entries])
    if store.head(folder_of(digest) + "index.parquet") is None:
        return None
    stored = load(store, digest).index.set_index("path").reindex([e.path for e in entries]).reset_index()
    if stored["etag"].tolist() != [e.etag for e in entries]:
        return None
    index = stored.assign(key=keys, split=[e.split for e in entries])
    if not index.equals(stored):
        write_frame(store, folder_of(digest) + "index.parquet", index)
    return Snapshot(digest, index, cached=True)


def _digest(rows: list[tuple[str, str, str, str]]) -> str:
    return digest_of(sorted(rows))


def _group(entry: Entry, sha256: str) -> str:
    """Without a group, an image is grouped with its exact copies."""
    return entry.group or sha256[:16]


def _index_row(entry: Entry, key: str, data: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    row = {**asdict(entry), "key": key, "bytes": len(data), "sha256": sha256, **NO_FACTS, "error": ""}
    del row["size"]
    row["group"] = _group(entry, sha256)
    try:
        if not entry.path.lower().endswith(imaging.EXTENSIONS):
            raise InputError(f"This is no image by its name. Allowed are {', '.join(imaging.EXTENSIONS)}.")
        decoded = imaging.decode_file(data)
    except InputError as error:
        return {**row, "error": str(error)}
    height, width = decoded.pixels.shape[:2]
    return {
        **row,
        "format": decoded.format,
        "mode": decoded.mode,
        "width": width,
        "height": height,
        "camera": decoded.camera,
        "brightness": imaging.brightness(decoded.pixels),
        "contrast": imaging.contrast(decoded.pixels),
        "sharpness": imaging.sharpness(decoded.pixels),
    }


def _check_bytes(entries: Sequence[Entry], found: Sequence[object], version: str) -> None:
    differing = [e.path for e, sha256 in zip(entries, found, strict=True) if e.sha256 and e.sha256 != sha256]
    if differing:
        raise DataRefused(
            f"{len(differing)} images of dataset version {version!r} have other bytes than their sha256 in the "
            f"manifest says, the first: {', '.join(map(repr, differing[:3]))}. They were damaged or changed after the "
            "push; push the version again."
        )
