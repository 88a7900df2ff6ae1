"""The threshold on the positive class' probability, chosen on validation images by what mistakes cost.

Shapes: N images, C cuts between two neighbouring scores.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tire_pipeline.metrics import Costs, Floats

LOWEST, HIGHEST = 0.02, 0.98


def choose_threshold(
    p_N: Floats, truth_N: npt.NDArray[np.bool_], *, costs: Costs | None = None, recall_min: float | None = None
) -> float:
    """The cheapest threshold at which the recall is `recall_min` or more; among equals the middle of the widest gap
    between scores, which is the furthest from any image.

    Without `costs` a class counts as much as the other, however many images it has: that is the threshold of the best
    balanced accuracy. Kept within 0.02 and 0.98, unless the floor of the recall demands a lower one.
    """
    positives, others = max(int(truth_N.sum()), 1), max(int((~truth_N).sum()), 1)
    costs = costs or Costs(miss=1 / positives, alarm=1 / others)
    scores_C1 = np.unique(np.concatenate([[0.0, 1.0], p_N]))
    cut_C, gap_C = (scores_C1[1:] + scores_C1[:-1]) / 2, np.diff(scores_C1)
    miss_C = np.searchsorted(np.sort(p_N[truth_N]), cut_C)
    alarm_C = len(p_N) - int(truth_N.sum()) - np.searchsorted(np.sort(p_N[~truth_N]), cut_C)
    allowed_C = np.ones(len(cut_C), bool)
    if recall_min is not None and truth_N.any():
        allowed_C = 1 - miss_C / truth_N.sum() >= recall_min - 1e-12
    if not allowed_C.any():  # a positive image has no probability at all: every image must count as positive
        return 0.0
    cost_C = np.where(allowed_C, miss_C * costs.miss + alarm_C * costs.alarm, np.inf)
    best = np.flatnonzero(np.isclose(cost_C, cost_C.min(), rtol=1e-9))
    chosen = float(cut_C[best[np.argmax(gap_C[best])]])
    highest = HIGHEST if recall_min is None else min(HIGHEST, float(cut_C[allowed_C].max()))
    lowest = LOWEST if recall_min is None else min(LOWEST, highest)
    cut = float(np.clip(chosen, lowest, highest))
    rounded = float(np.floor(cut * 1e4) / 1e4)  # down: up, it could pass the image that it is to let through
    return rounded if rounded > scores_C1[scores_C1 < cut].max() else cut


def review_band(
    threshold: float, *, costs: Costs | None = None, review_cost: float | None = None
) -> tuple[float, float]:
    """The probabilities for which a person should look.

    With `review_cost`, what a look costs in the unit of `costs`: where deciding is dearer on average than looking, for
    a calibrated probability (Chow, On optimum recognition error and reject tradeoff, 1970), and the threshold itself.
    Without it, within a fifth of the way from the threshold to either end.
    """
    low, high = threshold * 0.8, threshold + (1 - threshold) * 0.2
    if review_cost is not None:
        costs = costs or Costs()
        low, high = min(threshold, review_cost / costs.miss), max(threshold, 1 - review_cost / costs.alarm)
    return float(f"{max(low, 0.0):.4g}"), round(min(high, 1.0), 4)
