"""Images that no disk of this host can hold decoded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tire_pipeline.datasets.pixels import Located, located, read_image
from tire_pipeline.imaging import Pixels
from tire_pipeline.stores.objects import ObjectStore

IN_FLIGHT = 32


class RemoteImages:
    """Answers `images[rows]` as the cached array does, pixel for pixel, by a range request an image.

    Any order is as good as any other, so a training sees what it would see from the cache.
    """

    def __init__(self, store: ObjectStore, rows: pd.DataFrame, *, height: int, width: int, how: str) -> None:
        self._store, self._rows, self._how = store, rows, how
        self.shape = (len(rows), height, width, 3)
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="images")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: npt.NDArray[np.integer[Any]]) -> Pixels:
        images = located(self._rows.iloc[rows])
        return np.stack(list(self._pool.map(self._read, images)))

    def _read(self, image: Located) -> Pixels:
        encoded = self._store.get_range(image.shard, start=image.offset, length=image.length)
        return read_image(encoded, image, height=self.shape[1], width=self.shape[2], how=self._how)
