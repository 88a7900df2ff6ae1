"""What a dataset version holds: its listing, agreed with its manifest, or labelled by folders or labels.csv.

A version may have a million images: listing and manifest are read in pieces, into the columns of a table.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tire_pipeline.datasets.labels import (
    LABELS_FILE,
    as_columns,
    check_all_there,
    first_of,
    from_csv,
    of_path,
    read_text,
)
from tire_pipeline.datasets.paths import is_visible
from tire_pipeline.datasets.versions import MANIFEST, OURS, READY, Entry, find_marker, prefix_of
from tire_pipeline.errors import DataRefused, InputError
from tire_pipeline.stores.objects import ObjectStore

log = logging.getLogger(__name__)

_TEXT = ("sha256", "label", "group", "split", "columns", "etag")
ENTRIES = pa.schema([("path", pa.string()), ("size", pa.int64()), *((name, pa.string()) for name in _TEXT)])
_ROWS = 10_000
_BETWEEN = re.compile(r"[\s,]*")


def read_version(store: ObjectStore, version: str) -> list[Entry]:
    """Every image that the version's marker vouches for, sorted by path. Errors as of `read_table`."""
    return [Entry(**row) for row in read_table(store, version).to_pylist()]


def read_table(store: ObjectStore, version: str) -> pa.Table:
    """`read_version` as a table of ENTRIES.

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
    objects = ({"path": i.key[len(prefix) :], "size": i.size, "etag": i.etag} for i in store.list(prefix))
    rows = (row for row in objects if row["path"] not in OURS)
    if marker.name == MANIFEST:
        return _agreed(_sorted(_table(_manifest(store, version))), _sorted(_table(rows)), version)
    return _sorted(_labelled(store, rows, version))


def _table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows as a table of ENTRIES; a text that a row does not name is empty."""
    rest = iter(rows)
    pieces = []
    while piece := [{**dict.fromkeys(_TEXT, ""), **row} for row in islice(rest, _ROWS)]:
        pieces.append(pa.RecordBatch.from_pylist(piece, schema=ENTRIES))
    return pa.Table.from_batches(pieces, schema=ENTRIES)


def _sorted(table: pa.Table) -> pa.Table:
    """By path. S3 and our manifests are in that order already; not every server of the protocol is."""
    paths = table["path"]
    if pc.all(pc.less(paths.slice(0, max(0, len(paths) - 1)), paths.slice(1))).as_py() is not False:
        return table
    return table.sort_by("path")


def _manifest(store: ObjectStore, version: str) -> Iterator[dict[str, Any]]:
    """The files that the manifest states. Raises DataRefused for one that is no manifest."""
    try:
        for record in _items(store.stream(prefix_of(version) + MANIFEST), "files"):
            texts = {name: str(record.get(name) or "") for name in ("sha256", "label", "group", "split")}
            texts["columns"] = as_columns({str(k): str(v) for k, v in (record.get("columns") or {}).items()})
            yield {"path": str(record["key"]), "size": int(record["size"]), **texts}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataRefused(
            f"The {MANIFEST} of dataset version {version!r} cannot be read ({type(error).__name__}: {error}). "
            "Push the version again, which writes it anew."
        ) from None


def _items(pieces: Iterable[bytes], name: str) -> Iterator[Any]:
    """The members of the list `name` in a JSON object, each as soon as it is complete. ValueError where none ends."""
    decode, parse = codecs.getincrementaldecoder("utf-8")().decode, json.JSONDecoder().raw_decode
    text, inside = "", False
    for piece in pieces:
        text += decode(piece)
        at = 0
        if not inside:
            if (opening := re.search(rf'"{name}"\s*:\s*\[', text)) is None:
                continue
            inside, at = True, opening.end()
        while True:
            at = _end_of(_BETWEEN, text, at)
            if text.startswith("]", at):
                return
            try:
                item, at = parse(text, at)
            except ValueError:  # the rest of it comes with the next piece
                break
            yield item
        text = text[at:]
    raise ValueError(f"it ends before its list {name!r} does")


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _agreed(stated: pa.Table, listed: pa.Table, version: str) -> pa.Table:
    """The manifest's files with the etags of the listing, which must hold the same paths and sizes."""
    listed = listed.filter(pc.invert(_are_folders(listed)))
    if listed["path"].equals(stated["path"]) and listed["size"].equals(stated["size"]):
        return stated.set_column(ENTRIES.get_field_index("etag"), "etag", listed["etag"])
    there, told = (dict(zip(*(t[c].to_pylist() for c in ("path", "size")), strict=True)) for t in (listed, stated))
    differing = sorted(p for p in there.keys() | told.keys() if there.get(p) != told.get(p))
    if not differing:
        raise DataRefused(f"The {MANIFEST} of dataset version {version!r} states a key twice. Push the version again.")
    raise DataRefused(
        f"The objects of dataset version {version!r} differ from its {MANIFEST} in {len(differing)} keys: "
        f"{first_of(differing)}. Push the version again; a push repairs what is missing."
    )


def _are_folders(listed: pa.Table) -> Any:
    """Which are the empty objects by which S3's console makes a folder."""
    return pc.or_(pc.equal(listed["path"], ""), pc.ends_with(listed["path"], "/"))


def _labelled(store: ObjectStore, listed: Iterable[dict[str, Any]], version: str) -> pa.Table:
    """The visible objects with the labels of labels.csv, else of their folders; unlisted images are left out."""
    where = f"{prefix_of(version)}{LABELS_FILE}"
    rows = (row for row in listed if is_visible(row["path"]))
    if store.head(where) is None:
        return _table({**row, **asdict(of_path(row["path"]))} for row in rows)
    known = from_csv(read_text(store.get(where), where=where), where=where)
    unlisted = 0

    def named() -> Iterator[dict[str, Any]]:
        nonlocal unlisted
        for row in rows:
            if (labelled := known.pop(row["path"], None)) is None:
                unlisted += 1
            else:
                yield {**row, **asdict(labelled)}

    table = _table(named())
    check_all_there(known, where=where)
    if unlisted:
        log.warning("%s: %d objects are not in its %s and are left out", version, unlisted, LABELS_FILE)
    return table


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
            f"{len(differing)} of {len(entries)} images of {version!r} differ from the manifest: "
            f"{first_of(differing)}. Push the version again."
        )
    return len(entries)


def pull(store: ObjectStore, version: str, out: Path) -> int:
    """Copy a version into the folder `out`, empty or not yet there; the number of images."""
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty. Name a new folder; nothing was written.")
    num_images: int = read_table(store, version).num_rows
    store.download_folder(prefix_of(version), out)
    return num_images
