"""Figures of a model whose classes combine several labels: of the combination, and of each label by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tire_pipeline.metrics import Labels, Scored, cost_of, of_label, with_intervals
from tire_pipeline.several_labels import positives, take_apart, values_by_label


def metrics_of(scored: Scored, groups: npt.NDArray[Any], labels: Labels) -> dict[str, float]:
    """Every metric with its interval, and of several labels each label's as `<label>/<metric>`; `labels` as `judged`
    gives them.

    What is then said of all labels together is of their combination, but for the cost, which adds up over the labels as
    in the gate, and the recall, which is the lowest of a label: a defect found under the wrong label is not found.
    """
    several = {label: own for label, own in labels.items() if label}
    if several:
        scored = replace(scored, costs_N=cost_of(several))
    metrics = with_intervals(scored, groups)
    for label, own in several.items():
        metrics |= {of_label(name, label): value for name, value in with_intervals(own, groups).items()}
    if recalls := {label: metrics[of_label("recall", label)] for label, own in several.items() if own.positives}:
        worst = min(recalls, key=lambda label: (recalls[label], label))
        metrics |= {f"recall{end}": metrics[of_label(f"recall{end}", worst)] for end in ("", "_low", "_high")}
    return metrics


def judged(scored: Scored, classes: Sequence[str], *, positive_class: str | None) -> dict[str, Scored]:
    """The answers to each label of the images by its name; to their only one under "". Positive is what is named."""
    if found := by_label(scored, classes, positive_class=positive_class):
        return found
    return {"": replace(scored, positives=positives(classes, positive_class))}


def by_label(scored: Scored, classes: Sequence[str], *, positive_class: str | None) -> dict[str, Scored]:
    """The answers as answers to each label alone: the value in the class that was given, and the probabilities added
    up. None where the classes are plain."""
    apart = [take_apart(name) for name in classes]
    found = {}
    for label, values in values_by_label(classes).items():
        value_of_K = np.array([values.index(a[label]) for a in apart])
        p_NV = scored.p_NK @ np.eye(len(values))[value_of_K]
        of_label = positives(values, positive_class)
        found[label] = Scored(
            value_of_K[scored.y_N], p_NV, value_of_K[scored.predicted_N], of_label, costs=scored.costs
        )
    return found
