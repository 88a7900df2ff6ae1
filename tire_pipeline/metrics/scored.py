"""A model's answers on images whose class is known, and what its mistakes cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tire_pipeline.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Costs:
    """What one mistake costs, in any unit: `miss`, a positive image taken for another; `alarm`, the reverse."""

    miss: float = 1.0
    alarm: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.miss < math.inf and 0 < self.alarm < math.inf):
            raise InputError(f"A miss costs {self.miss} and an alarm {self.alarm}, but both must cost more than 0.")


@dataclass(frozen=True)
class Scored:
    """Answers on N images. `positives` are the indices of the classes that count as positive, one or none if plain.
    `costs_N`: what each answer costs where that does not follow from `costs`."""

    y_N: Ints
    p_NK: Floats
    predicted_N: Ints
    positives: tuple[int, ...] = ()
    costs: Costs = field(default_factory=Costs)
    costs_N: Floats | None = None

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(N,)"""
        return np.asarray(self.y_N == self.predicted_N)

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """(N,): which images are positive."""
        return np.isin(self.y_N, self.positives)

    @property
    def given(self) -> npt.NDArray[np.bool_]:
        """(N,): which were taken for positive."""
        return np.isin(self.predicted_N, self.positives)

    @property
    def score(self) -> Floats:
        """(N,): the probability that an image is positive."""
        return np.asarray(self.p_NK[:, list(self.positives)].sum(axis=1))

    @property
    def cost(self) -> Floats:
        """(N,): what each answer costs: a miss, an alarm, or (between other classes, and without a positive one) 1."""
        if self.costs_N is not None:
            return self.costs_N
        missed, alarmed = self.truth & ~self.given, self.given & ~self.truth
        return np.select([missed, alarmed], [self.costs.miss, self.costs.alarm], (~self.correct).astype(float))


Labels: TypeAlias = Mapping[str, Scored]
"""A model's answers by label of the images; those to an only label by ""."""


def cost_of(labels: Labels) -> Floats:
    """(N,): what an image's mistakes cost, over its labels."""
    return np.asarray(np.sum([s.cost for s in labels.values()], axis=0))
