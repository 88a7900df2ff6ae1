"""Candidate against champion, both scored on the same images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tire_pipeline.metrics import Scored, chance_of_saving, mcnemar_power, paired_differences
from tire_pipeline.registry.gate import Comparison

GAIN = 0.05


def compare(candidate: Scored, champion: Scored, groups: npt.NDArray[np.object_], *, alpha: float = 0.05) -> Comparison:
    """The comparison that the gate judges. What mistakes cost is the candidate's to say, for both."""
    champion = replace(champion, costs=candidate.costs)
    differences = paired_differences(candidate, champion, groups, alpha=alpha)
    p, test = chance_of_saving(candidate, champion, groups)
    num_images = len(candidate.y_N)
    worse = max(1, int(np.sum(champion.correct & ~candidate.correct))) / num_images
    return Comparison(
        num_images=num_images,
        cost_before=float(champion.cost.mean()),
        cost=differences["cost"],
        p=p,
        test=test,
        power=mcnemar_power(num_images, min(worse + GAIN, 1 - worse), worse, alpha=alpha),
        recall=differences.get("recall"),
    )
