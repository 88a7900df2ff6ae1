"""Metrics of a classifier with 95 % intervals. Arrays in, numbers out.

Shapes: N images, K classes. `p_NK` are calibrated probabilities, `y_N` the true class indices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from tire_pipeline.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

LOWER_IS_BETTER = frozenset({"log_loss", "brier", "ece"})
ALIASES = {"loss": "log_loss"}
NUM_BOOTSTRAP = 1000


@dataclass(frozen=True)
class Scored:
    """A model's answers on N images. `positive` is the index of the positive class, or None."""

    y_N: Ints
    p_NK: Floats
    predicted_N: Ints
    positive: int | None


def canonical(metric: str, known: list[str]) -> str:
    """The metric's name as MLflow has it without `test/`: `Loss` is `log_loss`. InputError lists the known ones."""
    name = metric.strip().lower().removeprefix("test/").replace(" ", "_").replace("-", "_")
    name = ALIASES.get(name, name)
    if name not in known:
        raise InputError(f"{metric!r} is no metric. Known are: {', '.join(sorted(known))}.")
    return name


def names(*, has_positive: bool) -> list[str]:
    """The metrics that `point` gives, with a positive class or without."""
    always = ["accuracy", "balanced_accuracy", "f1_macro", "log_loss", "brier", "ece"]
    return [*always, "precision", "recall", "specificity", "auroc", "auprc"] if has_positive else always


def better(metric: str, a: float, b: float) -> bool:
    """Whether value `a` of the metric is strictly better than `b`."""
    return a < b if metric in LOWER_IS_BETTER else a > b


def point(s: Scored) -> dict[str, float]:
    """Every metric's value. Probabilities are clipped to 1e-7 for the log loss; ECE has 10 equal bins
    (Guo et al., ICML 2017)."""
    p_NK = np.clip(s.p_NK.astype(float), 1e-7, 1.0)
    one_hot = np.eye(p_NK.shape[1])[s.y_N]
    values = {
        "accuracy": float(np.mean(s.predicted_N == s.y_N)),
        "balanced_accuracy": _balanced_accuracy(s.y_N, s.predicted_N),
        "f1_macro": _f1_macro(s.y_N, s.predicted_N, p_NK.shape[1]),
        "log_loss": float(-np.mean(np.log(p_NK[np.arange(len(s.y_N)), s.y_N] / p_NK.sum(axis=1)))),
        "brier": float(np.mean(np.sum((p_NK - one_hot) ** 2, axis=1)) / 2),
        "ece": _ece(s.y_N, p_NK),
    }
    return {**values, **_positive_metrics(s)} if s.positive is not None else values


def with_intervals(s: Scored, groups: npt.NDArray[Any], *, seed: int = 0) -> dict[str, float]:
    """`name`, `name_low`, `name_high` of every metric.

    Intervals are percentiles of 1,000 bootstrap samples of whole groups, drawn within the class of the group's first
    image: shots of one physical thing are not independent (Davison & Hinkley 1997, §2.4; Field & Welsh 2007).
    """
    values = point(s)
    samples = _bootstrap(s, groups, lambda t: list(point(t).values()), seed=seed)
    low, high = np.nanpercentile(samples, [2.5, 97.5], axis=0)
    for i, name in enumerate(list(values)):
        values[f"{name}_low"], values[f"{name}_high"] = float(low[i]), float(high[i])
    return values


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + confidence / 2))
    centre, spread = successes + z * z / 2, z * np.sqrt(successes * (n - successes) / n + z * z / 4)
    return float((centre - spread) / (n + z * z)), float((centre + spread) / (n + z * z))


def paired_difference(
    candidate: Scored, champion: Scored, groups: npt.NDArray[Any], metric: str, *, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, low, high): candidate minus champion on the same images, 95 % by the group-wise paired bootstrap."""

    def both(rows: Ints) -> float:
        return point(_take(candidate, rows))[metric] - point(_take(champion, rows))[metric]

    draws = [both(rows) for rows in _group_samples(candidate.y_N, groups, count=500, seed=seed)]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return both(np.arange(len(candidate.y_N))), float(low), float(high)


def _bootstrap(
    s: Scored, groups: npt.NDArray[Any], statistic: Callable[[Scored], list[float]], *, seed: int
) -> npt.NDArray[np.float64]:
    samples = _group_samples(s.y_N, groups, count=NUM_BOOTSTRAP, seed=seed)
    return np.array([statistic(_take(s, rows)) for rows in samples])


def _group_samples(y_N: Ints, groups: npt.NDArray[Any], *, count: int, seed: int) -> list[Ints]:
    """Row indices of `count` samples of groups with replacement, as many of each class as there are."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rows_of = [np.flatnonzero(inverse == g) for g in range(len(first))]
    strata = [np.flatnonzero(y_N[first] == k) for k in np.unique(y_N[first])]
    rng = np.random.default_rng(seed)
    drawn = (np.concatenate([rng.choice(g, len(g)) for g in strata]) for _ in range(count))
    return [np.concatenate([rows_of[g] for g in sample]) for sample in drawn]


def _take(s: Scored, rows: Ints) -> Scored:
    return Scored(s.y_N[rows], s.p_NK[rows], s.predicted_N[rows], s.positive)


def _balanced_accuracy(y_N: Ints, predicted_N: Ints) -> float:
    return float(np.mean([np.mean(predicted_N[y_N == k] == k) for k in np.unique(y_N)]))


def _f1_macro(y_N: Ints, predicted_N: Ints, num_classes: int) -> float:
    counts_KK = np.bincount(y_N * num_classes + predicted_N, minlength=num_classes**2).reshape(num_classes, num_classes)
    total_K = counts_KK.sum(axis=0) + counts_KK.sum(axis=1)
    seen = total_K > 0
    return float(np.mean(2 * np.diag(counts_KK)[seen] / total_K[seen]))


def _auroc(truth_N: npt.NDArray[np.bool_], score_N: Floats) -> float:
    """Mann and Whitney's U over the number of pairs (Hanley & McNeil 1982); ties count half."""
    n_pos = int(truth_N.sum())
    ranks = rankdata(score_N)
    return float((ranks[truth_N].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * (len(truth_N) - n_pos)))


def _average_precision(truth_N: npt.NDArray[np.bool_], score_N: Floats) -> float:
    """Mean of the precision over the steps of recall; images with the same score are one step."""
    order = np.argsort(-score_N, kind="stable")
    hits = np.cumsum(truth_N[order])
    ends = np.flatnonzero(np.append(np.diff(score_N[order]) != 0, True))
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _ece(y_N: Ints, p_NK: Floats, bins: int = 10) -> float:
    confidence, correct = p_NK.max(axis=1), p_NK.argmax(axis=1) == y_N
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[which == b].mean() - correct[which == b].mean()) * np.mean(which == b) for b in np.unique(which)
    ]
    return float(np.sum(gaps))


def _positive_metrics(s: Scored) -> dict[str, float]:
    truth, predicted = s.y_N == s.positive, s.predicted_N == s.positive
    score = s.p_NK[:, s.positive]
    hits = float(np.sum(truth & predicted))
    both = 0 < truth.sum() < len(truth)
    return {
        "precision": hits / float(predicted.sum()) if predicted.any() else 0.0,
        "recall": hits / float(truth.sum()) if truth.any() else float("nan"),
        "specificity": float(np.mean(~predicted[~truth])) if (~truth).any() else float("nan"),
        "auroc": _auroc(truth, score) if both else float("nan"),
        "auprc": _average_precision(truth, score) if both else float("nan"),
    }
