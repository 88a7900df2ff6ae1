"""From encoded images in shards to pixels: fetched ahead, compared with their sha256, decoded on every core."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import pandas as pd

from tire_pipeline import imaging
from tire_pipeline.datasets.shards import check
from tire_pipeline.stores.objects import ObjectStore

IN_FLIGHT_MAX = 24  # shards: 32 MB of memory each
IMAGES_A_TASK = 16


class Located(NamedTuple):
    """Where the image of a row lies: `length` bytes of `shard` from `offset` on. `key` is what people know it by."""

    row: int
    key: str
    sha256: str
    shard: str
    offset: int
    length: int


def locate(index: pd.DataFrame, packed: pd.DataFrame) -> pd.DataFrame:
    """The columns of `Located` for every row of `index`, in its order."""
    numbered = index[["key", "sha256"]].assign(row=range(len(index)))
    return numbered.merge(packed, on="sha256", how="left", validate="m:1")


def located(rows: pd.DataFrame) -> Iterator[Located]:
    """The records of such a frame."""
    return map(Located._make, zip(*(rows[name].tolist() for name in Located._fields), strict=True))


def decode_shards(
    store: ObjectStore,
    rows: pd.DataFrame,
    *,
    height: int,
    width: int,
    how: str,
    write: Callable[[int, imaging.Pixels], None],
) -> None:
    """Hand each image of `rows` (see `locate`) to `write` as (its row, uint8 (height, width, 3)), by `imaging.resize`.

    One GET a shard, a few more shards in flight and in memory than there are cores. `write` is called from several
    threads, in no order. Raises DataRefused naming an image that is not the one that was indexed.
    """
    shards = [(str(shard), part) for shard, part in rows.groupby("shard", sort=False)]
    cores = num_cores()
    in_flight = min(IN_FLIGHT_MAX, cores + 2)
    contents = store.get_many([shard for shard, _ in shards], workers=in_flight, ahead=in_flight)
    pending: deque[Future[None]] = deque()

    def decode_some(data: bytes, images: Sequence[Located]) -> None:
        for image in images:
            encoded = data[image.offset : image.offset + image.length]
            write(image.row, read_image(encoded, image, height=height, width=width, how=how))

    with ThreadPoolExecutor(cores, thread_name_prefix="decode") as pool:
        try:
            for (_, part), data in zip(shards, contents, strict=True):
                images = list(located(part))
                for start in range(0, len(images), IMAGES_A_TASK):
                    pending.append(pool.submit(decode_some, data, images[start : start + IMAGES_A_TASK]))
                while len(pending) > 2 * cores:
                    pending.popleft().result()
            while pending:
                pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def read_image(encoded: bytes, image: Located, *, height: int, width: int, how: str) -> imaging.Pixels:
    """Pixels (height, width, 3) of an image's bytes. DataRefused when these are not the bytes that were indexed."""
    return imaging.resize(imaging.decode(check(encoded, image.sha256, image.key)), height=height, width=width, how=how)


def num_cores() -> int:
    """The cores this process may use. Threads that decode do not spin while they wait: one too many harms nobody."""
    return len(os.sched_getaffinity(0))
