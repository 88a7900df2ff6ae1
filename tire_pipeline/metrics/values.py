"""Every metric for many weightings of the same images at once.

A bootstrap sample is a weight for each image, so a thousand samples are one matrix product, not a thousand runs.
Shapes: B weightings, N images, K classes, T distinct scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tire_pipeline.metrics.scored import Floats, Ints, Scored

ECE_BINS = 10
LEAST_PROBABILITY = 1e-7


def point(s: Scored) -> dict[str, float]:
    """Every metric's value; NaN where the images do not allow one, such as the recall without a positive image."""
    return {name: float(value_B[0]) for name, value_B in weighted(s, np.ones((1, len(s.y_N)))).items()}


def weighted(s: Scored, w_BN: Floats) -> Mapping[str, Floats]:
    """Every metric (B,) by name, each image counted as often as its weight says.

    Probabilities are clipped to 1e-7 for the log loss; ECE has 10 equal bins (Guo et al., ICML 2017).
    """
    p_NK = np.clip(s.p_NK.astype(float), LEAST_PROBABILITY, 1.0)
    rows = np.arange(len(s.y_N))
    one_hot_NK = np.eye(p_NK.shape[1])[s.y_N]
    loss_N = -np.log(p_NK[rows, s.y_N] / p_NK.sum(axis=1))
    brier_N = np.sum((p_NK - one_hot_NK) ** 2, axis=1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_BM = w_BN @ np.stack([s.correct, loss_N, brier_N, s.cost], axis=1) / w_BN.sum(axis=1, keepdims=True)
        values = {
            "accuracy": mean_BM[:, 0],
            **_by_class(s, w_BN),
            "log_loss": mean_BM[:, 1],
            "brier": mean_BM[:, 2],
            "ece": _ece(s.y_N, p_NK, w_BN),
        }
        return {**values, **_of_positive(s, w_BN), "cost": mean_BM[:, 3]} if s.positives else values


def confusion(s: Scored) -> Ints:
    """(K, K): how many images of each true class (first) were given each class (second)."""
    num_classes = s.p_NK.shape[1]
    cells = np.bincount(s.y_N * num_classes + s.predicted_N, minlength=num_classes * num_classes)
    return cells.reshape(num_classes, num_classes)


def _by_class(s: Scored, w_BN: Floats) -> dict[str, Floats]:
    """Classes that no image has are left out of the balanced accuracy; those neither had nor given, of F1 macro."""
    num_classes = s.p_NK.shape[1]
    true_BK = _sums(w_BN, s.y_N, num_classes)
    given_BK = _sums(w_BN, s.predicted_N, num_classes)
    hits_BK = _sums(w_BN * s.correct, s.y_N, num_classes)
    recall_BK = np.where(true_BK > 0, hits_BK / true_BK, np.nan)
    f1_BK = np.where(true_BK + given_BK > 0, 2 * hits_BK / (true_BK + given_BK), np.nan)
    return {
        "balanced_accuracy": _mean_of_known(recall_BK),
        "f1_macro": _mean_of_known(f1_BK),
        "f1_weighted": np.nansum(f1_BK * true_BK, axis=1) / true_BK.sum(axis=1),
    }


def _sums(w_BN: Floats, class_N: Ints, num_classes: int) -> Floats:
    """(B, K): the weight of each class. By sorting, since a matrix of N × K ones and zeros can be large."""
    order = np.argsort(class_N, kind="stable")
    seen, starts = np.unique(class_N[order], return_index=True)
    sums_BK = np.zeros((len(w_BN), num_classes))
    sums_BK[:, seen] = np.add.reduceat(w_BN[:, order], starts, axis=1)
    return sums_BK


def _mean_of_known(x_BK: Floats) -> Floats:
    known = ~np.isnan(x_BK)
    return np.asarray(np.where(known, x_BK, 0).sum(axis=1) / known.sum(axis=1))


def _ece(y_N: Ints, p_NK: Floats, w_BN: Floats) -> Floats:
    confidence_N, correct_N = p_NK.max(axis=1), p_NK.argmax(axis=1) == y_N
    bin_N = np.minimum((confidence_N * ECE_BINS).astype(int), ECE_BINS - 1)
    gap_NE = np.eye(ECE_BINS)[bin_N] * (confidence_N - correct_N)[:, None]
    return np.asarray(np.abs(w_BN @ gap_NE).sum(axis=1) / w_BN.sum(axis=1))


def _of_positive(s: Scored, w_BN: Floats) -> dict[str, Floats]:
    truth_N, given_N = s.truth, s.given
    sums_BM = w_BN @ np.stack([truth_N, given_N, truth_N & given_N, ~truth_N, ~truth_N & ~given_N], axis=1).astype(
        float
    )
    true_B, given_B, hits_B, others_B, spared_B = sums_BM.T
    auroc_B, auprc_B = _ranking(truth_N, s.score, w_BN)
    return {
        "precision": np.where(given_B > 0, hits_B / given_B, 0.0),
        "recall": hits_B / true_B,
        "specificity": spared_B / others_B,
        "auroc": auroc_B,
        "auprc": auprc_B,
    }


def _ranking(truth_N: npt.NDArray[np.bool_], score_N: Floats, w_BN: Floats) -> tuple[Floats, Floats]:
    """AUROC and AUPRC.

    The first is Mann and Whitney's U over the number of pairs, ties counting half (Hanley & McNeil 1982); the second
    the mean precision over the steps of recall. Images with the same score are one step.
    """
    order = np.argsort(-score_N, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(score_N[order]) != 0))
    hits_BT = np.add.reduceat(w_BN[:, order] * truth_N[order], starts, axis=1)
    alarms_BT = np.add.reduceat(w_BN[:, order] * ~truth_N[order], starts, axis=1)
    true_B, others_B = hits_BT.sum(axis=1), alarms_BT.sum(axis=1)
    below_BT = others_B[:, None] - np.cumsum(alarms_BT, axis=1)
    auroc_B = (hits_BT * (below_BT + alarms_BT / 2)).sum(axis=1) / (true_B * others_B)
    found_BT = np.cumsum(hits_BT, axis=1)
    shown_BT = found_BT + np.cumsum(alarms_BT, axis=1)
    precision_BT = np.where(shown_BT > 0, found_BT / shown_BT, 0.0)
    auprc_B = np.where(others_B > 0, (hits_BT * precision_BT).sum(axis=1) / true_B, np.nan)
    return auroc_B, auprc_B
