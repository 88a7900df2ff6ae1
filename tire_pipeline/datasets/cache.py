"""The cache of decoded images: one uint8 array a snapshot and size, filled once, shared on the host."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from filelock import FileLock

from tire_pipeline import imaging
from tire_pipeline.errors import DataRefused, OutOfResources
from tire_pipeline.stores.objects import ObjectStore

SPARE_BYTES = 500_000_000


def open_images(
    store: ObjectStore, index: pd.DataFrame, *, height: int, width: int, folder: Path, name: str
) -> imaging.Pixels:
    """The images of `index`, row by row, as a read-only uint8 array (N, height, width, 3) mapped from disk.

    `name` must be unique to the index (a snapshot's digest). The first caller decodes; others wait for it. Every
    image's sha256 is compared on the way in: DataRefused names one that has changed since it was indexed.
    OutOfResources when the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name[:16]}-{height}x{width}.u8"
    shape = (len(index), height, width, 3)
    with FileLock(path.with_suffix(".lock")):
        if not _complete(path, shape):
            _fill(store, index, path, shape)
    return cast(imaging.Pixels, np.memmap(path, np.uint8, mode="r", shape=shape))


def _complete(path: Path, shape: tuple[int, ...]) -> bool:
    mark = path.with_suffix(".json")
    if not (mark.is_file() and path.is_file()):
        return False
    return json.loads(mark.read_text()) == list(shape) and path.stat().st_size == int(np.prod(shape))


def _fill(store: ObjectStore, index: pd.DataFrame, path: Path, shape: tuple[int, int, int, int]) -> None:
    needed, free = int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if free < needed + SPARE_BYTES:
        raise OutOfResources(
            f"The decoded images need {needed / 1e9:.1f} GB, but {path.parent} has {free / 1e9:.1f} GB free. "
            "Free some space, or set TIRE_HOME to a larger disk."
        )
    part = path.with_suffix(".part")
    images = np.memmap(part, np.uint8, mode="w+", shape=shape)
    contents = store.get_many(index["key"].tolist())
    for i, (key, sha256, data) in enumerate(zip(index["key"], index["sha256"], contents, strict=True)):
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DataRefused(f"{key} has changed since its snapshot was taken. Run the pipeline on the version again.")
        images[i] = imaging.resize(imaging.decode(data), height=shape[1], width=shape[2])
    images.flush()
    part.replace(path)
    path.with_suffix(".json").write_text(json.dumps(shape))
