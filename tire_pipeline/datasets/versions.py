"""Dataset versions in S3: pushed, and found by their marker. What they hold is read by `contents`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tire_pipeline.datasets.labels import (
    LABELS_FILE,
    Columns,
    Labelled,
    check_all_there,
    from_csv,
    of_path,
    read_text,
)
from tire_pipeline.datasets.paths import KEY_BYTES_MAX, fault_of, is_visible
from tire_pipeline.errors import InputError
from tire_pipeline.imaging import EXTENSIONS
from tire_pipeline.refs import check_version
from tire_pipeline.stores.objects import ObjectStore

ROOT = "datasets/"
MANIFEST = "_MANIFEST.json"
READY = "_READY"
OURS = (MANIFEST, READY, LABELS_FILE)
UPLOADERS = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a version. `path` is relative to the version; `sha256` is empty where nobody stated it.

    `columns`: see `labels.Labelled`.
    """

    path: str
    size: int
    sha256: str = ""
    label: str = ""
    group: str = ""
    split: str = ""
    columns: str = ""
    etag: str = ""


@dataclass(frozen=True)
class Marker:
    """The signal that a version is complete; `id` (8 characters) changes when the signal is given anew."""

    name: str
    id: str


@dataclass(frozen=True)
class PushSummary:
    """What a push did. `uploaded` is 0 when the same content was there already.

    `skipped`: files that are no images by name. `left_out`: images that labels.csv does not name.
    """

    version: str
    num_images: int
    uploaded: int
    skipped: list[str]
    marker: str
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Folder:
    """What a folder holds: its images with their labels, and what of it is not pushed (see PushSummary)."""

    entries: list[Entry]
    skipped: list[str]
    left_out: list[str]


def prefix_of(version: str) -> str:
    return f"{ROOT}{check_version(version)}/"


def push(
    store: ObjectStore,
    folder: Path,
    *,
    version: str,
    labels: Path | None = None,
    columns: Columns | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PushSummary:
    """Upload a folder of images as a dataset version; the manifest is written last.

    Pushing the same content again changes nothing. Images that a changed version no longer has are deleted. Until the
    new manifest stands, the old one no longer agrees with the listing, so a half-done push is never trained from.
    """
    prefix = prefix_of(version)
    found = read_folder(folder, labels=labels, columns=columns)
    _check_keys(prefix, [e.path for e in found.entries])
    there = {i.key[len(prefix) :]: i for i in store.list(prefix)}
    manifest = [_manifest_record(e) for e in found.entries]
    old = store.get_json(prefix + MANIFEST) if MANIFEST in there else {"files": []}
    stored = {f["key"]: f["sha256"] for f in old["files"] if f["key"] in there and there[f["key"]].size == f["size"]}
    missing = [e for e in found.entries if stored.get(e.path) != e.sha256]
    _upload(store, folder, prefix, missing, progress)
    for path in there.keys() - {e.path for e in found.entries} - set(OURS):
        store.delete(prefix + path)
    if labels is not None or (folder / LABELS_FILE).is_file():
        store.put(prefix + LABELS_FILE, (labels or folder / LABELS_FILE).read_bytes(), content_type="text/csv")
    if old["files"] != manifest:
        store.put_json(prefix + MANIFEST, {"files": manifest})
    marker = find_marker(store, version)
    return PushSummary(
        version, len(found.entries), len(missing), found.skipped, marker.id if marker else "", found.left_out
    )


def read_folder(folder: Path, *, labels: Path | None = None, columns: Columns | None = None) -> Folder:
    """The images below `folder` with their labels.

    Raises InputError for a folder without images, or a labels.csv that names files which are not there.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. Give the folder that holds a folder per class, or a {LABELS_FILE}.")
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    visible = [p for p in paths if is_visible(p)]
    images = [p for p in visible if p.lower().endswith(EXTENSIONS)]
    if not images:
        raise InputError(f"{folder} holds no image ({', '.join(EXTENSIONS)}). Nothing was uploaded.")
    csv_path = labels or folder / LABELS_FILE
    if labels is not None and not labels.is_file():
        raise InputError(f"The labels file {labels} does not exist.")
    known = _labels(images, csv_path if csv_path.is_file() else None, columns)
    with ThreadPoolExecutor(UPLOADERS) as pool:
        hashed = pool.map(lambda p: _hash_file(folder / p), images)
        entries = [Entry(p, *h, **asdict(known[p])) for p, h in zip(images, hashed, strict=True) if p in known]
    if not entries:
        raise InputError(f"{csv_path} names none of the {len(images)} images in {folder}. Nothing was uploaded.")
    left_out = [p for p in images if p not in known]
    return Folder(entries, sorted(set(visible) - set(images) - {LABELS_FILE}), left_out)


def _labels(images: list[str], csv_path: Path | None, columns: Columns | None) -> dict[str, Labelled]:
    if csv_path is None:
        return {path: of_path(path) for path in images}
    known = from_csv(read_text(csv_path.read_bytes(), where=str(csv_path)), where=str(csv_path), columns=columns)
    check_all_there(known.keys() - set(images), where=str(csv_path))
    return known


def _check_keys(prefix: str, paths: list[str]) -> None:
    """Raise InputError for paths that would be quarantined for their name, or that S3 cannot hold."""
    faults = {p: f for p in paths if (f := fault_of(p))}
    if faults:
        path, fault = next(iter(faults.items()))
        raise InputError(f"{len(faults)} files cannot be pushed, the first: {path!r}. {fault} Nothing was uploaded.")
    if long := [p for p in paths if len((prefix + p).encode()) > KEY_BYTES_MAX]:
        raise InputError(
            f"The names of {len(long)} files are too long, the first: {long[0]!r}. S3 keys have at most "
            f"{KEY_BYTES_MAX} bytes, of which {prefix} takes {len(prefix)}. Shorten them. Nothing was uploaded."
        )


def list_versions(store: ObjectStore) -> Iterator[tuple[str, Marker | None]]:
    """Every version and its marker, by delimiter and marker alone: images are never listed."""
    for version in store.list_folders(ROOT):
        yield version, find_marker(store, version)


def find_marker(store: ObjectStore, version: str) -> Marker | None:
    """The version's marker; where both kinds exist the manifest counts."""
    prefix = f"{ROOT}{version}/"
    if (info := store.head(prefix + MANIFEST)) is not None:
        return Marker(MANIFEST, info.etag[:8])
    if (info := store.head(prefix + READY)) is not None:
        return Marker(READY, hashlib.sha256(f"{info.etag} {info.modified.timestamp()}".encode()).hexdigest()[:8])
    return None


def _upload(
    store: ObjectStore, folder: Path, prefix: str, entries: list[Entry], progress: Callable[[int, int], None] | None
) -> None:
    with ThreadPoolExecutor(UPLOADERS) as pool:
        uploads = pool.map(lambda e: store.put(prefix + e.path, (folder / e.path).read_bytes()), entries)
        for done, _ in enumerate(uploads, start=1):
            if progress:
                progress(done, len(entries))


def _manifest_record(entry: Entry) -> dict[str, Any]:
    record: dict[str, Any] = {"key": entry.path, "size": entry.size, "sha256": entry.sha256}
    record |= {"label": entry.label, "group": entry.group}
    if entry.split:
        record["split"] = entry.split
    return {**record, "columns": json.loads(entry.columns)} if entry.columns else record


def _hash_file(path: Path) -> tuple[int, str]:
    data = path.read_bytes()
    return len(data), hashlib.sha256(data).hexdigest()
