"""Which images of a snapshot look alike: found once, and kept beside its index for whoever asks next.

`snapshots/<digest>/likeness-<name>.parquet` is one row of three lists, the fields of `Likeness`. Its name follows from
the fingerprints and from the code that compares them, so what one release found is not believed by another.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tire_pipeline.datasets.snapshots import Snapshot, folder_of, load_fingerprints, prints_key
from tire_pipeline.fingerprints import Bytes, stack
from tire_pipeline.refs import digest_of
from tire_pipeline.splits.candidates import Ints
from tire_pipeline.splits.near_duplicates import components, near_duplicate_pairs
from tire_pipeline.stores.objects import ObjectStore

SOURCES = (
    "fingerprints.py",
    *(f"splits/{name}.py" for name in ("candidates", "likeness", "near_duplicates", "registration")),
)


@dataclass(frozen=True)
class Likeness:
    """Of N images. `code_N` numbers their fingerprints: equal where these are, −1 for none. `one` and `other` are
    numbers of fingerprints of one picture: enough pairs to connect each cluster of near-duplicates, not all there are.
    """

    code_N: Ints
    one: Ints
    other: Ints

    def clusters(self) -> Ints:
        """For each image the position of the first image of its cluster. Chains count: a copy of a copy is in it."""
        num = int(self.code_N.max(initial=-1)) + 1
        part = np.append(components(num, self.one, self.other), -1)[self.code_N]
        part = np.where(self.code_N < 0, num + np.arange(len(part)), part)
        _, first, inverse = np.unique(part, return_index=True, return_inverse=True)
        return np.asarray(first[inverse], np.int64)


def compare(given: Sequence[bytes]) -> Likeness:
    """The likeness of fingerprints as they were made. An empty one is like no other."""
    found = compare_rows(stack([one for one in given if one]))
    code_N = np.full(len(given), -1)
    code_N[[len(one) > 0 for one in given]] = found.code_N
    return replace(found, code_N=code_N)


def compare_rows(rows_NB: Bytes) -> Likeness:
    """The likeness of fingerprints as rows (N, NUM_BYTES)."""
    digests = (int.from_bytes(hashlib.blake2b(row, digest_size=8).digest()) for row in rows_NB)
    code_N = pd.factorize(np.fromiter(digests, np.uint64, len(rows_NB)))[0].astype(np.int64)
    _, first = np.unique(code_N, return_index=True)
    return Likeness(code_N, *near_duplicate_pairs(rows_NB, first))


def likeness_of(store: ObjectStore, snapshot: Snapshot) -> Likeness:
    """The likeness of a snapshot's usable rows: what is kept, or else what is found now, and then kept."""
    prints = store.head(prints_key(snapshot.digest))
    name = digest_of([prints.etag if prints else "", _code()])[:16]
    key = f"{folder_of(snapshot.digest)}likeness-{name}.parquet"
    if store.head(key) is not None:
        (row,) = pq.read_table(io.BytesIO(store.get(key))).to_pylist()
        return Likeness(**{name: np.array(values, np.int64) for name, values in row.items()})
    found = compare_rows(load_fingerprints(store, snapshot))
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: [values] for name, values in asdict(found).items()}), buffer)
    store.put(key, buffer.getvalue())
    return found


@cache
def _code() -> str:
    digest = hashlib.sha256()
    for source in SOURCES:
        digest.update((files("tire_pipeline") / source).read_bytes())
    return digest.hexdigest()
