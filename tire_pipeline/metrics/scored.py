"""A model's answers on images whose class is known, and what its mistakes cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

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
    """Answers on N images. `positive` is the index of the positive class, or None."""

    y_N: Ints
    p_NK: Floats
    predicted_N: Ints
    positive: int | None
    costs: Costs = field(default_factory=Costs)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(N,)"""
        return np.asarray(self.y_N == self.predicted_N)

    @property
    def cost(self) -> Floats:
        """(N,): what each answer costs: a miss, an alarm, or (between other classes, and without a positive one) 1."""
        wrong = (~self.correct).astype(float)
        if self.positive is None:
            return wrong
        truth, given = self.y_N == self.positive, self.predicted_N == self.positive
        return np.where(truth & ~given, self.costs.miss, np.where(given & ~truth, self.costs.alarm, wrong))
