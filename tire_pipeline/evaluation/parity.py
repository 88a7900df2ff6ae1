"""The same model in several forms: torch, ONNX, INT8, and the running server must say the same of every test image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import GateRefused
from tire_pipeline.metrics import Floats


@dataclass(frozen=True)
class Parity:
    """How far two forms are apart: the largest difference in a probability, and how many decisions differ."""

    between: str
    num_images: int
    max_difference: float
    num_flips: int

    @property
    def name(self) -> str:
        """As a figure is called: `parity_torch_onnx` of what is between torch and ONNX."""
        return "_".join(["parity", *(word for word in self.between.lower().split() if word not in ("and", "the"))])


@dataclass(frozen=True)
class ParityLimits:
    """What may differ; with `flips_max` None, any number of decisions. ONNX follows torch to 1e-7; the rest is room for
    another processor's arithmetic."""

    difference_max: float = 1e-4
    flips_max: int | None = 0


Decisions = list[tuple[str, str]]
"""Label and decision of each image."""


def compare(
    between: str, bundle: Bundle, a_NK: Floats, b_NK: Floats, *, decided: tuple[Decisions, Decisions] | None = None
) -> Parity:
    """Two forms' probabilities (N, K) of the same images, side by side. What is no number is infinitely far.

    `decided`: what each decides itself, where that is more than what the bundle makes of the probabilities.
    """
    difference = float(np.abs(a_NK - b_NK).max(initial=0.0))
    a, b = decided or (_decisions(bundle, a_NK), _decisions(bundle, b_NK))
    flips = sum(one != other for one, other in zip(a, b, strict=True))
    return Parity(between, len(a_NK), difference if np.isfinite(difference) else np.inf, flips)


def _decisions(bundle: Bundle, p_NK: Floats) -> Decisions:
    decided = [bundle.decide(p_K) for p_K in p_NK]
    return [(label, decision) for label, _, decision in decided]


def check(found: Parity, limits: ParityLimits) -> None:
    """Raise GateRefused when the two are further apart than allowed."""
    few = limits.flips_max is None or found.num_flips <= limits.flips_max
    if found.max_difference <= limits.difference_max and few:
        return
    flips = "any number" if limits.flips_max is None else limits.flips_max
    raise GateRefused(
        f"{found.between} differ by up to {found.max_difference:.2e} in a probability and in {found.num_flips} of "
        f"{found.num_images} decisions; at most {limits.difference_max:.0e} and {flips} are allowed. "
        "Nothing was promoted."
    )
