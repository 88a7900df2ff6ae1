"""95 % intervals: Wilson's for proportions, a bootstrap of whole groups for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import norm, t

from tire_pipeline.metrics.scored import Floats, Ints, Scored
from tire_pipeline.metrics.values import LEAST_PROBABILITY, point, weighted

NUM_BOOTSTRAP = 1000
CELLS_MAX = 8_000_000  # weights held at once, 64 MB
PROPORTIONS = ("accuracy", "precision", "recall", "specificity")
Groups = npt.NDArray[Any]


def with_intervals(s: Scored, groups: Groups, *, seed: int = 0) -> dict[str, float]:
    """`name`, `name_low`, `name_high` of every metric; `methods` says how each interval was made.

    Shots of one physical thing are not independent. A proportion has Wilson's interval on as many images as they are
    worth (see `_share`); the balanced accuracy those of its classes, joined. The others have Student's on the scale of
    logits, with the standard error of 1,000 bootstrap samples of whole groups, drawn within the class of the group's
    first image (Davison & Hinkley 1997, §2.4; Field & Welsh 2007). Where no sample differs, as of flawless answers,
    they have Wilson's with each group as one trial, and where a class has but one group all values that there are.
    """
    values = point(s)
    bounds = _bootstrap(s, groups, values, seed=seed)
    for name in (n for n in (*PROPORTIONS, "balanced_accuracy") if n in values):
        bounds[name] = _wilson_mean(_shares(s, name, groups))
    for name, (low, high) in bounds.items():
        values[f"{name}_low"], values[f"{name}_high"] = low, high
    return values


def proportion(hit_N: npt.NDArray[np.bool_], groups: Groups) -> tuple[float, float, float]:
    """(share of hits, low, high): the 95 % interval is Wilson's on as many images as those at hand are worth."""
    share = _share(hit_N, groups)
    return share[0], *_wilson_mean([share])


def methods(names: list[str], groups: Groups) -> dict[str, str]:
    """How `with_intervals` makes each metric's interval, in words."""
    number, alone = len(np.unique(groups)), independent(groups)
    wilson_one = "Wilson" if alone else f"Wilson, for {number} groups"
    own = dict.fromkeys(PROPORTIONS, wilson_one) | {"balanced_accuracy": f"{wilson_one}, of each class, joined (MOVER)"}
    return {name: own.get(name, f"bootstrap of {number} {'images' if alone else 'groups'}") for name in names}


def reach(sample_B: Floats, n: int, *, alpha: float) -> float:
    """How far the truth may be from a figure of n things, one-sided, given the figure in bootstrap samples of these:
    Student's t times their standard error, which samples of so few make too small by √(n/(n-1)) (Hesterberg, The
    American Statistician 69, 2015, §4)."""
    return float(t.isf(alpha, n - 1) * np.nanstd(sample_B) * np.sqrt(n / (n - 1))) if n > 1 else np.inf


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


def _bootstrap(s: Scored, groups: Groups, values: dict[str, float], *, seed: int) -> dict[str, tuple[float, float]]:
    pieces = [weighted(s, w_BN) for w_BN in group_weights(s.y_N, groups, seed=seed)]
    rarest = min(len(np.unique(groups[s.y_N == k])) for k in np.unique(s.y_N))
    bounds = {}
    for name in pieces[0]:
        sample_B, most = np.concatenate([p[name] for p in pieces]), _most(s, name)
        low, high = _around(values[name] / most, sample_B / most, rarest)
        bounds[name] = low * most, high * most
    return bounds


def _around(share: float, sample_B: Floats, n: int) -> tuple[float, float]:
    """The interval of a figure between 0 and 1 of n things, from the figure in bootstrap samples of them."""
    if np.isnan(share) or n == 1:
        return share * 0.0, share * 0.0 + 1.0
    far = reach(sample_B, n, alpha=0.025)
    if far < 1e-9 or not 0 < share < 1:
        return wilson(share * n, n)
    low, high = expit(logit(share) + np.array([-far, far]) / (share * (1 - share)))
    return float(low), float(high)


def _most(s: Scored, name: str) -> float:
    """The largest value of a metric; the least of all is 0."""
    dearest = max(s.costs.miss, s.costs.alarm, 1.0, s.cost.max(initial=0.0))
    return {"log_loss": -float(np.log(LEAST_PROBABILITY)), "cost": float(dearest)}.get(name, 1.0)


def _shares(s: Scored, name: str, groups: Groups) -> list[tuple[float, float]]:
    """`_share` of each proportion whose mean the metric is."""
    if name == "balanced_accuracy":
        return [_share(s.correct[s.y_N == k], groups[s.y_N == k]) for k in np.unique(s.y_N)]
    if name == "accuracy":
        return [_share(s.correct, groups)]
    truth, given = s.truth, s.given
    among, hit = {"precision": (given, truth), "recall": (truth, given), "specificity": (~truth, ~given)}[name]
    return [_share(hit[among], groups[among])]


def _share(hit_N: npt.NDArray[np.bool_], groups: Groups) -> tuple[float, float]:
    """(share of hits, how many independent images these are worth).

    That is their number over the design effect, which is how much more the share varies between groups than between
    independent images, less what so few groups leave open of it (Korn & Graubard, Survey Methodology 24, 1998; with
    Wilson's interval: Dean & Pagano, J. of Survey Statistics and Methodology 3, 2015). Where all are hits, or none,
    groups do not vary: each is one image.
    """
    found, group_N = np.unique(groups, return_inverse=True)
    number, trials = len(hit_N), len(found)
    share = float(np.mean(hit_N)) if number else 0.0
    if trials == number or share in (0.0, 1.0):
        return share, trials
    few = (norm.ppf(0.975) / t.ppf(0.975, max(1, trials - 1))) ** 2
    if trials == 1:
        return share, few
    apart_G = np.bincount(group_N, weights=hit_N - share)
    variance = trials / (trials - 1) * np.sum(apart_G**2) / number**2
    return share, few * min(number, share * (1 - share) / variance if variance else number)


def _wilson_mean(shares: list[tuple[float, float]]) -> tuple[float, float]:
    """The interval of the mean of independent proportions from Wilson's of each: MOVER (Zou & Donner, Statistics in
    Medicine 27, 2008)."""
    share_K = np.array([share for share, _ in shares])
    low_K, high_K = np.array([wilson(share * n, n) for share, n in shares]).T
    mean, size = share_K.mean(), len(shares)
    if size == 1:
        return float(low_K[0]), float(high_K[0])
    low = mean - np.sqrt(np.sum((share_K - low_K) ** 2)) / size
    high = mean + np.sqrt(np.sum((high_K - share_K) ** 2)) / size
    return float(max(low, 0.0)), float(min(high, 1.0))
