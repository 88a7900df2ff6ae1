"""Snapshots: the immutable, content-addressed reading of a dataset version.

The index is one row an image, sorted by path:

    path, key, sha256, etag, bytes, label, group, split, columns (the others of labels.csv, as JSON, or empty), format,
    mode, width, height, orientation (EXIF, 1..8), camera, captured_at (YYYY-MM-DDTHH:MM:SS or empty), brightness
    (0..255), contrast, sharpness, saturation (0..255), phash (16 hex digits), error (why the image is quarantined, else
    empty)

Beside it lie the fingerprints of its rows (see `fingerprints`): 2.3 kB an image, which few need.

It is made in three moves: the version's listing is cut into shards, each shard is scanned into a part, and the parts
are joined with the labels, a part at a time. The first two are in `parts`, and may be spread over workers.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tire_pipeline.datasets import parts
from tire_pipeline.datasets.contents import read_table
from tire_pipeline.datasets.contradictions import Contradictions
from tire_pipeline.datasets.labels import first_of
from tire_pipeline.datasets.parts import SHARD_IMAGES, Shard
from tire_pipeline.datasets.sandbox import Sandbox
from tire_pipeline.datasets.versions import prefix_of
from tire_pipeline.errors import DataRefused, InputError
from tire_pipeline.fingerprints import NUM_BYTES, Bytes, stack
from tire_pipeline.refs import ScanShard, digest_of
from tire_pipeline.stores.objects import ObjectStore

GROUP_DIGITS = 16
PIECE_ROWS = 2_000
INDEX = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "key", "sha256", "etag")),
        ("bytes", pa.int64()),
        *((name, pa.string()) for name in ("label", "group", "split", "columns")),
        *(field for field in parts.FACTS if field.name not in ("sha256", "fingerprint")),
    ]
)
PRINTS = pa.schema([parts.FACTS.field("fingerprint")])


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's digest (64 hex digits) and index. `cached`: no image was read for it."""

    digest: str
    index: pd.DataFrame
    cached: bool

    @property
    def usable(self) -> pd.DataFrame:
        """Rows to train from: readable and labelled."""
        return self.index[is_usable(self.index)]


def is_usable(index: pd.DataFrame) -> pd.Series:
    """Which rows can be trained from: readable and labelled."""
    return (index["error"] == "") & (index["label"] != "")


def group_given(index: pd.DataFrame) -> pd.Series:
    """Which rows have a group that somebody gave; the others are grouped with their exact copies."""
    return index["group"] != index["sha256"].str[:GROUP_DIGITS]


def folder_of(digest: str) -> str:
    return f"snapshots/{digest}/"


def prints_key(digest: str) -> str:
    """Where the fingerprints of a snapshot lie: one for each row of its index, empty where there is none."""
    return f"{folder_of(digest)}fingerprints.parquet"


def split_key(digest: str, split_digest: str) -> str:
    """Where a split of the snapshot lies."""
    return f"{folder_of(digest)}splits/{split_digest}.parquet"


def build(
    store: ObjectStore,
    version: str,
    *,
    columns: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """The snapshot of a version, with these columns of its index or all. See `take`."""
    digest, cached = take(store, version, progress=progress)
    return Snapshot(digest, load(store, digest, columns=columns).index, cached)


def take(
    store: ObjectStore,
    version: str,
    *,
    shard_images: int = SHARD_IMAGES,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, bool]:
    """Read what no part holds yet of a version and write its index; the digest, and whether nothing had to be read.

    Holds a part and the version's listing in memory, whatever the number of images. An object that has the size and
    etag it had when it was scanned is not read again. Raises DataRefused for a version without images, and where bytes
    differ from the sha256 that the manifest states, naming the first keys.
    """
    shards = _shards(store, version, shard_images)
    listing = digest_of([prefix_of(version), *(digest_of([s.part, s.entries.to_pydict()]) for s in shards)])
    if known := _known(store, listing):
        return known, True
    missing = [s for s in shards if not parts.is_stored(store, s.part)]
    _scan_all(store, version, missing, sum(s.entries.num_rows for s in shards), progress)
    return _join(store, version, shards, listing), not missing


def plan(store: ObjectStore, version: str) -> list[ScanShard]:
    """The shards of a version that nobody has scanned yet, to be scanned anywhere."""
    return parts.plan(store, version, _shards(store, version, SHARD_IMAGES))


def scan(store: ObjectStore, shard: ScanShard) -> None:
    """Scan one planned shard, unless its part is there already."""
    if not parts.is_stored(store, shard.part):
        with Sandbox() as sandbox:
            parts.scan(store, shard.version, parts.planned(store, shard), sandbox)


def load(store: ObjectStore, digest: str, *, columns: Sequence[str] | None = None) -> Snapshot:
    """The snapshot by its digest, with these columns of its index or all. InputError when it does not exist.

    The index goes by way of the disk, so columns that are not asked for take no memory.
    """
    with TemporaryDirectory() as folder:
        path = _fetched(store, folder_of(digest) + "index.parquet", Path(folder))
        wanted = None if columns is None else list(columns)
        index = pq.read_table(path, columns=wanted, use_threads=False, pre_buffer=False).to_pandas()
    return Snapshot(digest, index, cached=True)


def load_fingerprints(store: ObjectStore, snapshot: Snapshot) -> Bytes:
    """The fingerprints (N, NUM_BYTES) of the snapshot's N usable rows, mapped from a file that is gone when they are.

    InputError for a snapshot of an older release.
    """
    key = prints_key(snapshot.digest)
    if store.head(key) is None:
        old = snapshot.digest[:12]
        raise InputError(f"The snapshot {old} was taken by an older release. Take it again: `tire validate VERSION`.")
    usable = is_usable(snapshot.index).to_numpy()
    with TemporaryDirectory() as folder, TemporaryFile() as file:
        start = 0
        # Read ahead, the whole file would lie in memory.
        prints = pq.ParquetFile(_fetched(store, key, Path(folder)), pre_buffer=False)
        for rows in prints.iter_batches(PIECE_ROWS, use_threads=False):
            here = rows["fingerprint"].filter(pa.array(usable[start : start + len(rows)]))
            file.write(stack(here.to_pylist()).tobytes())
            start += len(rows)
        file.flush()
        shape = (int(usable.sum()), NUM_BYTES)
        return np.memmap(file, np.uint8, mode="r", shape=shape) if shape[0] else np.zeros(shape, np.uint8)


def _fetched(store: ObjectStore, key: str, folder: Path) -> Path:
    path = folder / "fetched"
    with path.open("wb") as file:
        file.writelines(store.stream(key))
    return path


def read_frame(store: ObjectStore, key: str) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(store.get(key)))


def write_frame(store: ObjectStore, key: str, frame: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    store.put(key, buffer.getvalue())


def _shards(store: ObjectStore, version: str, shard_images: int) -> list[Shard]:
    entries = read_table(store, version)
    if not entries.num_rows:
        raise DataRefused(f"The dataset version {version!r} holds no image. Push a folder with images, a class each.")
    return parts.cut(entries, shard_images=shard_images)


def _known(store: ObjectStore, listing: str) -> str:
    """The snapshot that was made of this very listing and still says so, or nothing.

    Versions of the same content share a snapshot but neither keys nor given splits: its index speaks of the last one.
    """
    if store.head(_listing_key(listing)) is None:
        return ""
    digest: str = store.get_json(_listing_key(listing))["snapshot"]
    made_of = folder_of(digest) + "listing.json"
    return digest if store.head(made_of) and store.get_json(made_of) == {"listing": listing} else ""


def _listing_key(listing: str) -> str:
    return f"snapshots/parts/{listing}.listing.json"


def _scan_all(
    store: ObjectStore,
    version: str,
    missing: Sequence[Shard],
    num_images: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    done = num_images - sum(s.entries.num_rows for s in missing)

    def moved(number: int) -> None:
        nonlocal done
        done += number
        if progress:
            progress(done, num_images)

    if missing:
        with Sandbox() as sandbox:
            for shard in missing:
                parts.scan(store, version, shard, sandbox, moved=moved)


def _join(store: ObjectStore, version: str, shards: Sequence[Shard], listing: str) -> str:
    """Join entries and parts into the index, write it under its digest, and return that."""
    digest = hashlib.sha256(b"[")
    contradictions = Contradictions()
    differing: list[str] = []
    with TemporaryDirectory() as folder:
        path, prints = Path(folder) / "index.parquet", Path(folder) / "fingerprints.parquet"
        with pq.ParquetWriter(path, INDEX) as writer, pq.ParquetWriter(prints, PRINTS) as prints_writer:
            for shard in shards:
                facts = parts.load(store, shard.part)
                differing += _differing(shard.entries, facts)
                rows = _rows(prefix_of(version), shard.entries, facts)
                digest.update((b"," if shard is not shards[0] else b"") + _digested(rows))
                contradictions.add(rows)
                writer.write_table(rows)
                prints_writer.write_table(facts.select(PRINTS.names))
        _check_bytes(differing, version)
        digest.update(b"]")
        made = digest.hexdigest()
        store.put_file(prints_key(made), prints)
        store.put_file(folder_of(made) + "index.parquet", contradictions.marked(path))
    store.put_json(folder_of(made) + "listing.json", {"listing": listing})
    store.put_json(_listing_key(listing), {"snapshot": made})
    return made


def _rows(prefix: str, entries: pa.Table, facts: pa.Table) -> pa.Table:
    """The index rows of a shard. Without a group, an image is grouped with its exact copies."""
    own_group = pc.utf8_slice_codeunits(facts["sha256"], 0, GROUP_DIGITS)
    columns = {
        **{name: entries[name] for name in ("path", "etag", "label", "split", "columns")},
        "key": pc.binary_join_element_wise(prefix, entries["path"], ""),
        "bytes": entries["size"],
        "group": pc.if_else(pc.equal(entries["group"], ""), own_group, entries["group"]),
        **{name: facts[name] for name in facts.column_names if name != "fingerprint"},
    }
    return pa.table([columns[name] for name in INDEX.names], schema=INDEX)


def _digested(rows: pa.Table) -> bytes:
    """The rows' share of the digest, which is `digest_of` over the sorted (path, sha256, label, group) of all."""
    columns = zip(*(rows[name].to_pylist() for name in ("path", "sha256", "label", "group")), strict=True)
    return ",".join(json.dumps(row, separators=(",", ":"), ensure_ascii=False) for row in columns).encode()


def _differing(entries: pa.Table, facts: pa.Table) -> list[str]:
    """Paths whose bytes are not those of the stated sha256. What was not read, or has none stated, cannot differ."""
    both = pc.and_(pc.not_equal(entries["sha256"], ""), pc.not_equal(facts["sha256"], ""))
    differs = pc.and_(both, pc.not_equal(entries["sha256"], facts["sha256"]))
    paths: list[str] = entries["path"].filter(differs).to_pylist()
    return paths


def _check_bytes(differing: list[str], version: str) -> None:
    if differing:
        raise DataRefused(
            f"{len(differing)} images of dataset version {version!r} have other bytes than their sha256 in the "
            f"manifest says, the first: {first_of(differing)}. They were damaged or changed after the push; push the "
            "version again."
        )
