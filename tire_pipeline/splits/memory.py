"""What was decided about each image of a project, under each seed: an image keeps its side in every later version.

`splits/<project>/seed-<seed>.parquet` has a row an image: sha256 and side (empty: left out). The first decision stays;
later ones add rows. It is written only on what was read, so of two splits at once the second decides again.
"""

from __future__ import annotations

import io

import pandas as pd

from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.splits.assignment import Split, assign
from tire_pipeline.splits.links import Links, link
from tire_pipeline.stores.objects import ObjectStore

ATTEMPTS = 5


def assign_and_remember(
    store: ObjectStore, index: pd.DataFrame, *, project: str, seed: int, links: Links | None = None
) -> Split:
    """The split of an index by what is remembered, which then holds its new images too. Safe to repeat, and to run
    beside another. Raises what `assign` raises, and ServiceUnavailable when others write all the time."""
    key = f"splits/{project}/seed-{seed}.parquet"
    links = links or link(index)
    for _ in range(ATTEMPTS):
        before, etag = _recall(store, key)
        made = assign(index, seed=seed, previous=before, links=links)
        new = pd.Series(made.sides.to_numpy(object), index=index["sha256"].to_numpy(object))
        new = new[~new.index.isin(before.index) & ~new.index.duplicated()]
        if not len(new) or store.put_if(key, _packed(pd.concat([before, new])), etag=etag):
            return made
    raise ServiceUnavailable(
        f"s3://{store.bucket}/{key} was changed by others {ATTEMPTS} times while this split was made. Try again."
    )


def _recall(store: ObjectStore, key: str) -> tuple[pd.Series, str]:
    """The side by sha256, and the etag it was read at (empty: nothing was decided yet)."""
    info = store.head(key)
    if info is None:
        return pd.Series([], index=pd.Index([], dtype=object), dtype=object), ""
    frame = pd.read_parquet(io.BytesIO(store.get(key, etag=info.etag)))
    return pd.Series(frame["side"].to_numpy(object), index=frame["sha256"].to_numpy(object)), info.etag


def _packed(sides: pd.Series) -> bytes:
    buffer = io.BytesIO()
    frame = pd.DataFrame({"sha256": sides.index, "side": sides.to_numpy()}).sort_values("sha256")
    frame.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()
