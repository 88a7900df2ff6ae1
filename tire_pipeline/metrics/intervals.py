"""95 % intervals: Wilson's for proportions of independent images, a bootstrap of whole groups for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from tire_pipeline.metrics.scored import Floats, Ints, Scored
from tire_pipeline.metrics.values import point, weighted

NUM_BOOTSTRAP = 1000
CELLS_MAX = 8_000_000  # weights held at once, 64 MB
PROPORTIONS = ("accuracy", "precision", "recall", "specificity")
WILSON, MOVER = "Wilson", "Wilson for each class, joined (MOVER)"
Groups = npt.NDArray[Any]


def with_intervals(s: Scored, groups: Groups, *, seed: int = 0) -> dict[str, float]:
    """`name`, `name_low`, `name_high` of every metric; `methods` says how each interval was made.

    Shots of one physical thing are not independent: percentiles of 1,000 bootstrap samples of whole groups, drawn
    within the class of the group's first image (Davison & Hinkley 1997, §2.4; Field & Welsh 2007). No sample differs
    where every image was right, or none: there a proportion's interval is Wilson's with each group as one trial, so
    that ten flawless groups do not pass for certainty.
    """
    values = point(s)
    bounds = _bootstrap(s, groups, seed=seed)
    alone = independent(groups)
    for name in (n for n in (*PROPORTIONS, "balanced_accuracy") if n in values):
        trials = _trials(s, name, groups if not alone else np.arange(len(groups)))
        if alone or values[name] in (0.0, 1.0):
            bounds[name] = _wilson_mean(trials)
    for name, (low, high) in bounds.items():
        values[f"{name}_low"], values[f"{name}_high"] = low, high
    return values


def methods(names: list[str], groups: Groups) -> dict[str, str]:
    """How `with_intervals` makes each metric's interval, in words."""
    number = len(np.unique(groups))
    grouped = f"bootstrap of {number} {'images' if independent(groups) else 'groups'}, stratified by class"
    if not independent(groups):
        return dict.fromkeys(names, grouped)
    wilson_ones = dict.fromkeys(PROPORTIONS, WILSON) | {"balanced_accuracy": MOVER}
    return {name: wilson_ones.get(name, grouped) for name in names}


def independent(groups: Groups) -> bool:
    """Whether every image is a group of its own."""
    return len(np.unique(groups)) == len(groups)


def wilson(successes: float, n: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + confidence / 2))
    centre, spread = successes + z * z / 2, z * np.sqrt(successes * (n - successes) / n + z * z / 4)
    return max(0.0, float((centre - spread) / (n + z * z))), min(1.0, float((centre + spread) / (n + z * z)))


def group_weights(y_N: Ints, groups: Groups, *, count: int = NUM_BOOTSTRAP, seed: int = 0) -> Iterator[Floats]:
    """Bootstrap samples as weights (B, N) of the images, in pieces that fit the memory, `count` in all.

    Groups are drawn with replacement, as many of each class as there are.
    """
    _, first_G, group_N = np.unique(groups, return_index=True, return_inverse=True)
    class_G = y_N[first_G]
    rng = np.random.default_rng(seed)
    step = max(1, CELLS_MAX // max(len(y_N), 1))
    for start in range(0, count, step):
        w_BG = np.zeros((min(step, count - start), len(first_G)))
        for k in np.unique(class_G):
            members = np.flatnonzero(class_G == k)
            w_BG[:, members] = _draws(rng, len(w_BG), len(members))
        yield w_BG[:, group_N]


def _draws(rng: np.random.Generator, count: int, n: int) -> Ints:
    """(count, n): how often each of n things is drawn when n are drawn with replacement."""
    drawn = rng.integers(n, size=(count, n)) + np.arange(count)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)


def _bootstrap(s: Scored, groups: Groups, *, seed: int) -> dict[str, tuple[float, float]]:
    pieces = [weighted(s, w_BN) for w_BN in group_weights(s.y_N, groups, seed=seed)]
    samples_MB = np.array([np.concatenate([p[name] for p in pieces]) for name in pieces[0]])
    known = ~np.isnan(samples_MB).all(axis=1)
    bounds = {}
    for name, sample_B, some in zip(pieces[0], samples_MB, known, strict=True):
        low, high = np.nanpercentile(sample_B, [2.5, 97.5]) if some else (np.nan, np.nan)
        bounds[name] = float(low), float(high)
    return bounds


def _trials(s: Scored, name: str, groups: Groups) -> list[tuple[float, float]]:
    """(successes, trials) of each proportion whose mean the metric is; a group is one trial, its share its success."""
    if name == "balanced_accuracy":
        return [_share(s.correct[s.y_N == k], groups[s.y_N == k]) for k in np.unique(s.y_N)]
    if name == "accuracy":
        return [_share(s.correct, groups)]
    truth, given = s.y_N == s.positive, s.predicted_N == s.positive
    among, hit = {"precision": (given, truth), "recall": (truth, given), "specificity": (~truth, ~given)}[name]
    return [_share(hit[among], groups[among])]


def _share(hit_N: npt.NDArray[np.bool_], groups: Groups) -> tuple[float, float]:
    trials = len(np.unique(groups))
    return (float(np.mean(hit_N)) * trials if trials else 0.0), trials


def _wilson_mean(trials: list[tuple[float, float]]) -> tuple[float, float]:
    """The interval of the mean of independent proportions from Wilson's of each: MOVER (Zou & Donner, Statistics in
    Medicine 27, 2008)."""
    share_K = np.array([s / n if n else np.nan for s, n in trials])
    low_K, high_K = np.array([wilson(s, n) for s, n in trials]).T
    mean, size = share_K.mean(), len(trials)
    if size == 1:
        return float(low_K[0]), float(high_K[0])
    low = mean - np.sqrt(np.sum((share_K - low_K) ** 2)) / size
    high = mean + np.sqrt(np.sum((high_K - share_K) ** 2)) / size
    return float(max(low, 0.0)), float(min(high, 1.0))
