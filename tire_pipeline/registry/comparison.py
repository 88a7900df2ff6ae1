"""Candidate against champion, both scored on the same images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tire_pipeline.metrics import MCNEMAR, Labels, chance_of_saving, cost_of, mcnemar_power, paired_differences
from tire_pipeline.registry.gate import Comparison

GAIN = 0.05


def compare(candidate: Labels, champion: Labels, groups: npt.NDArray[np.object_], *, alpha: float = 0.05) -> Comparison:
    """The comparison that the gate judges, of answers by label of the images; of an only label by "".

    What mistakes cost is the candidate's to say, for both.
    """
    champion = {label: replace(champion[label], costs=mine.costs) for label, mine in candidate.items()}
    differences = paired_differences(candidate, champion, groups, alpha=alpha)
    cost = differences.pop("cost")
    p, test = chance_of_saving(candidate, champion, groups)
    return Comparison(
        num_images=len(groups),
        cost_before=float(np.mean(cost_of(champion))),
        cost=cost,
        p=p,
        test=test,
        power=_power(candidate, champion, alpha) if test == MCNEMAR else None,
        recalls=differences,
    )


def _power(candidate: Labels, champion: Labels, alpha: float) -> float:
    """The chance that McNemar's test notices a model that is right on GAIN more of the images."""
    mine, theirs = (np.all([s.correct for s in labels.values()], axis=0) for labels in (candidate, champion))
    worse = max(1, int(np.sum(theirs & ~mine))) / len(mine)
    return mcnemar_power(len(mine), min(worse + GAIN, 1 - worse), worse, alpha=alpha)
