"""Dataset versions in S3: pushed, found by their marker, and read whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tire_pipeline.datasets.labels import LABELS_FILE, Columns, Labelled, from_csv, from_folders, read_text
from tire_pipeline.errors import DataRefused, InputError
from tire_pipeline.imaging import EXTENSIONS
from tire_pipeline.refs import check_version
from tire_pipeline.stores.objects import ObjectInfo, ObjectStore

ROOT = "datasets/"
MANIFEST = "_MANIFEST.json"
READY = "_READY"
UPLOADERS = 8


@dataclass(frozen=True)
class Entry:
    """One image of a version. `path` is relative to the version; `sha256` is empty where nobody stated it."""

    path: str
    size: int
    sha256: str = ""
    label: str = ""
    group: str = ""
    split: str = ""
    etag: str = ""


@dataclass(frozen=True)
class Marker:
    """The signal that a version is complete; `id` (8 characters) changes when the signal is given anew."""

    name: str
    id: str


@dataclass(frozen=True)
class PushSummary:
    """What a push did. `uploaded` is 0 when the same content was there already."""

    version: str
    num_images: int
    uploaded: int
    skipped: list[str]
    marker: str


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
    entries, skipped = read_folder(folder, labels=labels, columns=columns)
    there = {i.key[len(prefix) :]: i for i in store.list(prefix)}
    manifest = [_manifest_record(e) for e in entries]
    old = store.get_json(prefix + MANIFEST) if MANIFEST in there else {"files": []}
    stored = {f["key"]: f["sha256"] for f in old["files"] if f["key"] in there and there[f["key"]].size == f["size"]}
    missing = [e for e in entries if stored.get(e.path) != e.sha256]
    _upload(store, folder, prefix, missing, progress)
    for path in there.keys() - {e.path for e in entries} - {MANIFEST, READY, LABELS_FILE}:
        store.delete(prefix + path)
    if labels is not None or (folder / LABELS_FILE).is_file():
        store.put(prefix + LABELS_FILE, (labels or folder / LABELS_FILE).read_bytes(), content_type="text/csv")
    if old["files"] != manifest:
        store.put_json(prefix + MANIFEST, {"files": manifest})
    found = find_marker(store, version)
    return PushSummary(version, len(entries), len(missing), skipped, found.id if found else "")


def read_folder(
    folder: Path, *, labels: Path | None = None, columns: Columns | None = None
) -> tuple[list[Entry], list[str]]:
    """The images below `folder` with their labels, and the files that are no images by name.

    Raises InputError for a folder without images, or a labels.csv that names files which are not there.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. Give the folder that holds a folder per class, or a {LABELS_FILE}.")
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    visible = [p for p in paths if _is_visible(p)]
    images = [p for p in visible if p.lower().endswith(EXTENSIONS)]
    if not images:
        raise InputError(f"{folder} holds no image ({', '.join(EXTENSIONS)}). Nothing was uploaded.")
    csv_path = labels or folder / LABELS_FILE
    if labels is not None and not labels.is_file():
        raise InputError(f"The labels file {labels} does not exist.")
    csv_text = read_text(csv_path.read_bytes(), where=str(csv_path)) if csv_path.is_file() else None
    known = _labels(images, csv_text, columns, where=str(csv_path))
    with ThreadPoolExecutor(UPLOADERS) as pool:
        hashed = pool.map(lambda p: _hash_file(folder / p), images)
        entries = [Entry(p, *h, **asdict(known[p])) for p, h in zip(images, hashed, strict=True) if p in known]
    if not entries:
        raise InputError(f"{csv_path} names none of the {len(images)} images in {folder}. Nothing was uploaded.")
    return entries, sorted(set(visible) - set(images) - {LABELS_FILE})


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


def read_version(store: ObjectStore, version: str) -> list[Entry]:
    """Every image that the version's marker vouches for, sorted by path.

    Raises InputError for a version that is not there or has no marker, DataRefused where the listing differs from
    the manifest, naming the first keys that differ.
    """
    prefix = prefix_of(version)
    marker = find_marker(store, version)
    if marker is None:  # listing tells a missing bucket from a missing version; asking for the markers does not
        found = "it is not there" if next(store.list(prefix), None) is None else "it is still being uploaded"
        raise InputError(
            f"The dataset version {version!r} has neither {MANIFEST} nor {READY} under s3://{store.bucket}/{prefix}: "
            f"{found}. Upload it with `tire dataset push DIR --version {version}`, or put an empty object {READY} "
            "beside its images when they are complete."
        )
    listed = {i.key[len(prefix) :]: i for i in store.list(prefix)}
    if marker.name == MANIFEST:
        return _read_manifest(store.get_json(prefix + MANIFEST), listed, version)
    where = f"{prefix}{LABELS_FILE}"
    csv_text = read_text(store.get(where), where=where) if LABELS_FILE in listed else None
    images = sorted(p for p in listed if _is_visible(p) and p != LABELS_FILE)
    known = _labels(images, csv_text, None, where=where)
    return [Entry(p, listed[p].size, etag=listed[p].etag, **asdict(known[p])) for p in images if p in known]


def _read_manifest(manifest: dict[str, Any], listed: dict[str, ObjectInfo], version: str) -> list[Entry]:
    entries = [Entry(path=f["key"], **{k: v for k, v in f.items() if k != "key"}) for f in manifest["files"]]
    stated = {e.path: e.size for e in entries}
    ours = (MANIFEST, READY, LABELS_FILE)
    present = {p: i.size for p, i in listed.items() if p not in ours and not (p.endswith("/") or p == "")}
    differing = sorted(p for p in stated.keys() | present.keys() if stated.get(p) != present.get(p))
    if differing:
        raise DataRefused(
            f"The objects of dataset version {version!r} differ from its {MANIFEST} in {len(differing)} keys: "
            f"{_first(differing)}. Push the version again; a push repairs what is missing."
        )
    return [replace(e, etag=listed[e.path].etag) for e in sorted(entries, key=lambda e: e.path)]


def _labels(images: list[str], csv_text: str | None, columns: Columns | None, *, where: str) -> dict[str, Labelled]:
    if csv_text is None:
        return from_folders(images)
    known = from_csv(csv_text, columns=columns)
    if missing := sorted(known.keys() - set(images)):
        raise InputError(
            f"{where} names {len(missing)} images that are not there: {_first(missing)}. "
            "Paths are relative to the dataset folder, with '/' between folders."
        )
    return known


def _is_visible(path: str) -> bool:
    """Neither hidden (`.DS_Store`), nor ours (`_READY`), nor the empty object by which S3's console makes a folder."""
    return not path.endswith("/") and not any(part.startswith((".", "_")) for part in path.split("/"))


def _upload(
    store: ObjectStore, folder: Path, prefix: str, entries: list[Entry], progress: Callable[[int, int], None] | None
) -> None:
    with ThreadPoolExecutor(UPLOADERS) as pool:
        uploads = pool.map(lambda e: store.put(prefix + e.path, (folder / e.path).read_bytes()), entries)
        for done, _ in enumerate(uploads, start=1):
            if progress:
                progress(done, len(entries))


def _manifest_record(entry: Entry) -> dict[str, Any]:
    record = {"key": entry.path, "size": entry.size, "sha256": entry.sha256, "label": entry.label, "group": entry.group}
    return {**record, "split": entry.split} if entry.split else record


def _hash_file(path: Path) -> tuple[int, str]:
    data = path.read_bytes()
    return len(data), hashlib.sha256(data).hexdigest()


def _first(keys: list[str], count: int = 3) -> str:
    return ", ".join(map(repr, keys[:count])) + (" …" if len(keys) > count else "")


def verify(store: ObjectStore, version: str, *, progress: Callable[[int, int], None] | None = None) -> int:
    """Compare every byte with the manifest; the number of images. DataRefused names the first that differ."""
    entries = read_version(store, version)
    differing = []
    contents = store.get_many([prefix_of(version) + e.path for e in entries])
    for done, (entry, data) in enumerate(zip(entries, contents, strict=True), start=1):
        if entry.sha256 and hashlib.sha256(data).hexdigest() != entry.sha256:
            differing.append(entry.path)
        if progress:
            progress(done, len(entries))
    if differing:
        raise DataRefused(
            f"{len(differing)} of {len(entries)} images of {version!r} differ from the manifest: {_first(differing)}. "
            "Push the version again."
        )
    return len(entries)


def pull(store: ObjectStore, version: str, out: Path) -> int:
    """Copy a version into the folder `out`, empty or not yet there; the number of images."""
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty. Name a new folder; nothing was written.")
    entries = read_version(store, version)
    store.download_folder(prefix_of(version), out)
    return len(entries)
