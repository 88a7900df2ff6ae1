"""Candidate against champion, both scored on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tire_pipeline.metrics import MCNEMAR, Scored, chance_of_saving, mcnemar_power, paired_differences
from tire_pipeline.registry.gate import Comparison

GAIN = 0.05


def compare(
    candidate: Sequence[Scored], champion: Sequence[Scored], groups: npt.NDArray[np.object_], *, alpha: float = 0.05
) -> Comparison:
    """The comparison that the gate judges, of answers for each label of the images, most often one.

    What mistakes cost is the candidate's to say, for both.
    """
    champion = [replace(theirs, costs=mine.costs) for mine, theirs in zip(candidate, champion, strict=True)]
    differences = paired_differences(candidate, champion, groups, alpha=alpha)
    p, test = chance_of_saving(candidate, champion, groups)
    return Comparison(
        num_images=len(groups),
        cost_before=float(np.mean(np.sum([s.cost for s in champion], axis=0))),
        cost=differences["cost"],
        p=p,
        test=test,
        power=_power(candidate, champion, alpha) if test == MCNEMAR else None,
        recall=differences.get("recall"),
    )


def _power(candidate: Sequence[Scored], champion: Sequence[Scored], alpha: float) -> float:
    """The chance that McNemar's test notices a model that is right on GAIN more of the images."""
    mine, theirs = (np.all([s.correct for s in labels], axis=0) for labels in (candidate, champion))
    worse = max(1, int(np.sum(theirs & ~mine))) / len(mine)
    return mcnemar_power(len(mine), min(worse + GAIN, 1 - worse), worse, alpha=alpha)
