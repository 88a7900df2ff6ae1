"""The gate: values in, a decision with its reason out. It moves nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tire_pipeline.metrics import LOWER_IS_BETTER


@dataclass(frozen=True)
class Gate:
    """The metric that counts and the value it must reach (or, for losses, not exceed); None: any number will do."""

    metric: str = "balanced_accuracy"
    threshold: float | None = 0.75


@dataclass(frozen=True)
class Comparison:
    """Candidate minus champion in the gate's metric on the same test images, with its 95 % interval."""

    champion_version: int
    champion_value: float
    difference: float
    low: float
    high: float
    num_images: int


@dataclass(frozen=True)
class Decision:
    """Whether to go on, and why in words."""

    promote: bool
    reason: str


def reaches(value: float, gate: Gate) -> Decision:
    """Whether one figure passes the absolute threshold. A value that is no number never does."""
    if gate.threshold is None:
        return Decision(math.isfinite(value), f"{_words(gate.metric)} {value:.3f}, no threshold was given")
    if gate.metric in LOWER_IS_BETTER:
        return Decision(
            value <= gate.threshold, f"{_words(gate.metric)} {value:.3f}, must not be over {gate.threshold:g}"
        )
    return Decision(value >= gate.threshold, f"{_words(gate.metric)} {value:.3f}, must reach {gate.threshold:g}")


def decide(value: float, gate: Gate, comparison: Comparison | None) -> Decision:
    """Promote a candidate that passes the threshold and, where there is a champion, is not worse on the same images."""
    absolute = reaches(value, gate)
    if not absolute.promote or comparison is None:
        verb = "it passes the threshold and there is no champion yet" if absolute.promote else "it fails the threshold"
        return Decision(absolute.promote, f"{verb} ({absolute.reason})")
    c = comparison
    good = c.difference <= 0 if gate.metric in LOWER_IS_BETTER else c.difference >= 0  # NaN is neither
    figures = (
        f"{_words(gate.metric)} {value:.3f} against {c.champion_value:.3f} of the champion (version "
        f"{c.champion_version}) on the same {c.num_images} test images, difference {c.difference:+.3f} "
        f"[{c.low:+.3f}, {c.high:+.3f}]"
    )
    return Decision(good, f"it is {'at least as good as' if good else 'not as good as'} the champion: {figures}")


def _words(metric: str) -> str:
    return metric.replace("_", " ")
