"""The scan of a dataset version, piece by piece.

A version's sorted listing is cut into shards. The facts of a shard's objects are a *part*, stored under a digest of
their paths, sizes and etags and of the code that reads them: whoever scans, the same objects make the same part, and
what was scanned once is not read again. Labels are no part of it.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import cv2
import PIL
import pyarrow as pa
import pyarrow.parquet as pq

from tire_pipeline.datasets.facts import Facts
from tire_pipeline.datasets.paths import fault_of
from tire_pipeline.datasets.sandbox import Sandbox
from tire_pipeline.datasets.versions import prefix_of
from tire_pipeline.refs import ScanShard, digest_of
from tire_pipeline.stores.objects import WORKERS, ObjectStore

SHARD_IMAGES = 2_000
SHARDS_MAX = 500  # Airflow maps a task 1,024 times at most
BATCH_IMAGES = 16
VALUES_AT_ONCE = 10_000
AHEAD_BYTES = 128_000_000
FILE_BYTES_MAX = 100_000_000
SOURCES = (
    "imaging.py",
    "fingerprints.py",
    *(f"datasets/{n}.py" for n in ("endings", "facts", "paths", "sandbox_child")),
)
FACTS = pa.schema(
    [
        ("sha256", pa.string()),
        *((name, pa.string()) for name in ("format", "mode")),
        *((name, pa.int64()) for name in ("width", "height", "orientation")),
        *((name, pa.string()) for name in ("camera", "captured_at")),
        *((name, pa.float64()) for name in ("brightness", "contrast", "sharpness", "saturation")),
        ("phash", pa.string()),
        ("fingerprint", pa.binary()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Shard:
    """A run of a version's sorted entries (`contents.ENTRIES`) and the name of its part."""

    part: str
    entries: pa.Table


def cut(entries: pa.Table, *, shard_images: int = SHARD_IMAGES) -> list[Shard]:
    """The entries in shards of about `shard_images`, at most twice as many.

    Where a shard begins depends on its first path alone, so that images added to a version change the shards that
    they fall into and no others. One that grows too large is cut where its paths come next to that: two thresholds, two
    divisors (Eshghi and Tang, HP Laboratories 2005).
    """
    size = shard_images
    while entries.num_rows > size * SHARDS_MAX:
        size *= 2
    starts, last, nearly = [0], 0, 0
    for i, path in enumerate(_values(entries["path"])):
        number = _number(path)
        if number % size == 0 and i > last:
            starts.append(last := i)
        elif number % (size // 4 or 1) == 0:
            nearly = i
        if i - last >= 2 * size:
            starts.append(last := nearly if nearly > last else i)
    pieces = [entries.slice(a, b - a) for a, b in zip(starts, [*starts[1:], entries.num_rows], strict=True)]
    return [Shard(_name(piece), piece) for piece in pieces]


def _values(column: pa.ChunkedArray) -> Iterator[str]:
    """The column's values, a few at a time as Python objects."""
    for start in range(0, len(column), VALUES_AT_ONCE):
        yield from column.slice(start, VALUES_AT_ONCE).to_pylist()


def _number(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "big")


def is_stored(store: ObjectStore, part: str) -> bool:
    return store.head(_key(part)) is not None


def load(store: ObjectStore, part: str) -> pa.Table:
    """The facts of a part's objects (FACTS), in their order."""
    return pq.read_table(io.BytesIO(store.get(_key(part))), use_threads=False)


def plan(store: ObjectStore, version: str, shards: Sequence[Shard]) -> list[ScanShard]:
    """Store what the shards list, for whoever scans them; those whose part is there need no scan and are left out."""
    missing = [s for s in shards if not is_stored(store, s.part)]
    for shard in missing:
        store.put(_key(shard.part, "listing"), _parquet(shard.entries))
    return [ScanShard(version, s.part, s.entries.num_rows) for s in missing]


def planned(store: ObjectStore, shard: ScanShard) -> Shard:
    """A shard as it was planned. Raises InputError when it never was."""
    return Shard(shard.part, pq.read_table(io.BytesIO(store.get(_key(shard.part, "listing")))))


def scan(
    store: ObjectStore, version: str, shard: Shard, sandbox: Sandbox, *, moved: Callable[[int], None] | None = None
) -> None:
    """Read every object of the shard once and store its part. `moved` is told how many were read."""
    found: list[dict[str, Any]] = []
    for rows in _read(store, prefix_of(version), shard.entries.to_pylist(), sandbox):
        found += rows
        if moved:
            moved(len(rows))
    store.put(_key(shard.part), _parquet(pa.Table.from_pylist(found, schema=FACTS)))


def _read(
    store: ObjectStore, prefix: str, entries: list[dict[str, Any]], sandbox: Sandbox
) -> Iterator[list[dict[str, Any]]]:
    """The rows of FACTS in batches, in order. What is read ahead is bounded in bytes."""
    waiting: deque[tuple[int, Future[list[dict[str, Any]]]]] = deque()
    with ThreadPoolExecutor(WORKERS) as readers, ThreadPoolExecutor(sandbox.num_children) as feeders:
        try:
            for start in range(0, len(entries), BATCH_IMAGES):
                batch = entries[start : start + BATCH_IMAGES]
                num_bytes = sum(min(e["size"], FILE_BYTES_MAX) for e in batch)
                while waiting and num_bytes + sum(n for n, _ in waiting) > AHEAD_BYTES:
                    yield waiting.popleft()[1].result()
                objects = [readers.submit(_fetch, store, prefix, entry) for entry in batch]
                waiting.append((num_bytes, feeders.submit(_rows, objects, sandbox)))
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            for _, future in waiting:
                future.cancel()


@dataclass(frozen=True)
class _Object:
    """An object as it was read: its bytes, or the reason why they are not looked at."""

    sha256: str
    data: bytes = b""
    fault: str = ""


def _fetch(store: ObjectStore, prefix: str, entry: dict[str, Any]) -> _Object:
    """Read an object, unless its name is a fault or it is too large to be held."""
    if fault := fault_of(entry["path"]):
        return _Object("", fault=fault)
    key = prefix + entry["path"]
    if entry["size"] <= FILE_BYTES_MAX:
        data = store.fetch(key, etag=entry["etag"])
        return _Object(hashlib.sha256(data).hexdigest(), data)
    sha256 = hashlib.sha256()
    for piece in store.stream(key, etag=entry["etag"]):
        sha256.update(piece)
    megabytes = f"{entry['size'] / 1e6:.0f} MB; at most {FILE_BYTES_MAX / 1e6:.0f} MB"
    return _Object(sha256.hexdigest(), fault=f"The file has {megabytes} are decoded. Save the picture smaller.")


def _rows(objects: Sequence[Future[_Object]], sandbox: Sandbox) -> list[dict[str, Any]]:
    read = [future.result() for future in objects]
    facts = iter(sandbox.facts([o.data for o in read if not o.fault]))
    return [{"sha256": o.sha256, **asdict(Facts(error=o.fault) if o.fault else next(facts))} for o in read]


def _key(part: str, what: str = "part") -> str:
    return f"snapshots/parts/{part}.{what}.parquet"


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _name(entries: pa.Table) -> str:
    columns = entries.select(["path", "size", "etag"]).to_pydict()
    return digest_of([_reader_digest(), columns])


@cache
def _reader_digest() -> str:
    """What facts follow from beside the bytes: our code, and the libraries that decode."""
    digest = hashlib.sha256(f"{PIL.__version__} {cv2.__version__}".encode())
    for source in SOURCES:
        digest.update((files("tire_pipeline") / source).read_bytes())
    return digest.hexdigest()
