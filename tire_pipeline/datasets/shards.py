"""Shards: the images of a snapshot, end to end in objects of about 32 MB, so that reading them is one GET for a
thousand images instead of one for each.

A shard holds the encoded bytes as they were uploaded, and nothing else; `shards.parquet` beside the snapshot's index
says where each image lies: sha256, shard (its key), offset, length (bytes). A shard's name follows from what is in it,
so a version that grew by a tenth shares most of its shards with the one before.
"""

from __future__ import annotations

import hashlib
import logging
from itertools import pairwise

import numpy as np
import pandas as pd

from tire_pipeline.datasets.snapshots import folder_of, read_frame, write_frame
from tire_pipeline.errors import DataRefused
from tire_pipeline.refs import digest_of
from tire_pipeline.stores.objects import ObjectStore

SHARD_BYTES = 32_000_000

log = logging.getLogger(__name__)


def pack(store: ObjectStore, index: pd.DataFrame, *, name: str) -> pd.DataFrame:
    """Write what is missing of the shards of the snapshot `name` (its digest) and say where each image lies.

    Needs the columns path, key, sha256 and bytes. Holds one shard in memory. Safe to repeat and to run twice at once:
    the same images make the same shards, and the index, written last, means that they are complete. Raises DataRefused
    naming an image whose bytes are no longer those of its sha256.
    """
    where = folder_of(name) + "shards.parquet"
    if store.head(where) is not None:
        packed = read_frame(store, where)
        if index["sha256"].isin(packed["sha256"]).all():
            return packed
    planned, keys = plan(index), _distinct(index)["key"]
    for shard, rows in planned.groupby("shard", sort=False):
        _write_shard(store, str(shard), rows, keys[rows.index].tolist())
    write_frame(store, where, planned)
    return planned


def plan(index: pd.DataFrame) -> pd.DataFrame:
    """Which shard takes which image at which offset. Pure.

    Images lie in the order of their paths, so what is uploaded together lies together. A shard ends, once it is half
    full, at an image whose sha256 says so, and at one and a half times SHARD_BYTES in any case: where shards end
    depends on the images around, not on how many came before, and an image more changes one shard, not all that
    follow. (Content-defined chunking: Muthitacharoen et al., SOSP 2001, §3.1.)
    """
    images = _distinct(index)
    bounds = [0, *_ends(images)]
    names = [f"shards/{digest_of(images['sha256'][a:b].tolist())}" for a, b in pairwise(bounds)]
    number_N = np.repeat(np.arange(len(names)), np.diff(bounds))
    before_N = (images["bytes"].cumsum() - images["bytes"]).to_numpy(np.int64)
    columns = {
        "sha256": images["sha256"],
        "shard": pd.Series(names, dtype="str").take(number_N).array,
        "offset": before_N - before_N[np.array(bounds)[:-1]][number_N],
        "length": images["bytes"],
    }
    return pd.DataFrame(columns)


def _distinct(index: pd.DataFrame) -> pd.DataFrame:
    """An image of each content, in the order in which they lie in shards."""
    images = index[["path", "key", "sha256", "bytes"]].drop_duplicates("sha256")
    return images.sort_values("path", kind="stable", ignore_index=True)


def _ends(images: pd.DataFrame) -> list[int]:
    """How many of the images lie in shards up to each shard's end; the last is their number."""
    ends_one_in = 1 << max(0, round(SHARD_BYTES / 2 / max(1.0, images["bytes"].mean())).bit_length() - 1)
    ends, filled = [], 0
    for number, (sha256, length) in enumerate(zip(images["sha256"], images["bytes"], strict=True), start=1):
        filled += length
        may_end = filled >= SHARD_BYTES / 2 and int(sha256[:8], 16) % ends_one_in == 0
        if may_end or filled >= SHARD_BYTES * 3 / 2 or number == len(images):
            ends.append(number)
            filled = 0
    return ends


def check(data: bytes, sha256: str, key: str) -> bytes:
    """The bytes, if they have this sha256; else DataRefused names the object they come from."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataRefused(f"{key} has changed since its snapshot was taken. Run the pipeline on the version again.")
    return data


def _write_shard(store: ObjectStore, shard: str, rows: pd.DataFrame, keys: list[str]) -> None:
    """`keys` are where the images of the rows are read."""
    found = store.head(shard)
    if found is not None and found.size == rows["length"].sum():
        return
    contents = zip(store.get_many(keys), rows["sha256"], keys, strict=True)
    store.put(shard, b"".join(check(data, sha256, key) for data, sha256, key in contents))
    log.info("%s: %d images, %.1f MB", shard, len(rows), rows["length"].sum() / 1e6)
