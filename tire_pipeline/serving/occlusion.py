"""Where in a picture a probability comes from: parts are covered in turn, and what is lost is noted
(Zeiler & Fergus, ECCV 2014). Needs nothing of the model but its answers.

Legend: B images, C channels, H height, W width, K classes, G cells a side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tire_pipeline.bundle import Floats
from tire_pipeline.serving.batcher import Overloaded
from tire_pipeline.serving.model import LoadedModel
from tire_pipeline.serving.online import OnlinePredictor

CELLS = 8
AT_ONCE = 4  # small batches, between which those of other requests are run


@dataclass(frozen=True)
class OcclusionMap:
    """`drop_GG`: by how much the probability of class `label` falls where that part is covered; negative where it
    rises. `probability` is that of the whole picture.
    """

    label: int
    probability: float
    drop_GG: Floats


class Explainer:
    """Makes one map at a time, 64 answers of the model each, out of small batches in the common queue: requests wait
    for one of them at most. Raises Overloaded to whoever comes meanwhile.
    """

    def __init__(self, predictor: OnlinePredictor) -> None:
        self._predictor, self._busy = predictor, False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Held by one request at a time; take it before anything that costs."""
        if self._busy:
            raise Overloaded("Another map is being made; try again in a second.")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def explain(self, model: LoadedModel, x_CHW: Floats, *, label: int | None = None) -> OcclusionMap:
        """The map for class `label`, that of the decision where it is None."""
        whole_K = (await self._predictor.infer(model, x_CHW[None]))[0]
        shown = model.bundle.classes.index(model.bundle.decide(whole_K)[0]) if label is None else label
        lost: list[float] = []
        for x_BCHW in covered(x_CHW):
            p_BK = await self._predictor.infer(model, x_BCHW)
            lost += [float(whole_K[shown] - p) for p in p_BK[:, shown]]
            await asyncio.sleep(0)
        return OcclusionMap(shown, float(whole_K[shown]), np.array(lost, np.float32).reshape(CELLS, CELLS))


def covered(x_CHW: Floats) -> Iterator[Floats]:
    """Copies of the picture, `AT_ONCE` at a time, each with one cell and half of its neighbours at the mean colour of
    the picture: one alone is too small to hide what stands out."""
    mean_C = x_CHW.mean(axis=(1, 2), keepdims=True)
    height, width = x_CHW.shape[1:]
    cells = [(row, column) for row in range(CELLS) for column in range(CELLS)]
    for start in range(0, len(cells), AT_ONCE):
        chosen = cells[start : start + AT_ONCE]
        x_BCHW = np.repeat(x_CHW[None], len(chosen), axis=0)
        for picture_CHW, (row, column) in zip(x_BCHW, chosen, strict=True):
            picture_CHW[:, _span(row, height), _span(column, width)] = mean_C
        yield x_BCHW


def _span(cell: int, length: int) -> slice:
    size = length / CELLS
    return slice(max(0, round((cell - 0.5) * size)), min(length, round((cell + 1.5) * size)))
