"""Two models on the same images: the difference, its bounds, and whether chance explains it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from tire_pipeline.metrics.intervals import Groups, expanded, group_weights, groups_of_rarest, independent
from tire_pipeline.metrics.scored import Floats, Scored

NUM_FLIPS = 4999


@dataclass(frozen=True)
class Difference:
    """Candidate minus champion. `low` and `high` are one-sided bounds: each is passed with 5 % probability."""

    value: float
    low: float
    high: float


def paired_differences(
    candidate: Scored, champion: Scored, groups: Groups, *, alpha: float = 0.05, seed: int = 0
) -> dict[str, Difference]:
    """The differences in `cost` an image and, with a positive class, in its `recall`, by bootstrap of whole groups.

    Both models are weighted alike in every sample, so what is hard for both does not widen the bounds at `alpha`, which
    allow for few groups as those of one model do.
    """
    gain_NM, among_NM = _parts(candidate, champion)
    sums = [(w_BN @ gain_NM, w_BN @ among_NM) for w_BN in group_weights(candidate.y_N, groups, seed=seed)]
    with np.errstate(invalid="ignore"):
        sample_BM = np.concatenate([gain / among for gain, among in sums])
        value_M = gain_NM.sum(axis=0) / among_NM.sum(axis=0)
    outside = expanded(alpha, groups_of_rarest(candidate.y_N, groups))
    low_M, high_M = np.quantile(sample_BM, [outside, 1 - outside], axis=0)
    named = zip(("cost", "recall"), value_M, low_M, high_M, strict=False)
    return {name: Difference(float(value), float(low), float(high)) for name, value, low, high in named}


def mcnemar(better: int, worse: int) -> float:
    """One-sided p of McNemar's exact test (1947): how likely chance alone lets the candidate be right on `better` or
    more of the `better + worse` images that only one of the two got right."""
    return float(binom.sf(better - 1, better + worse, 0.5))


def mcnemar_power(n: int, better: float, worse: float, *, alpha: float = 0.05) -> float:
    """The power of `mcnemar` on n images of which only the candidate gets the share `better` right, and only the
    champion `worse`: the sum over all numbers of discordant images (Miettinen, Biometrics 24, 1968)."""
    discordant = np.arange(n + 1)
    chance_D = binom.pmf(discordant, n, better + worse)
    needed_D = binom.isf(alpha, discordant, 0.5) + 1
    return float(np.sum(chance_D * binom.sf(needed_D - 1, discordant, better / (better + worse))))


def chance_of_saving(candidate: Scored, champion: Scored, groups: Groups, *, seed: int = 0) -> tuple[float, str]:
    """(p, test): how likely two equal models differ in cost as much as these, in the candidate's favour.

    Where every image stands alone and every mistake costs the same this is McNemar's exact test. Otherwise its
    generalisation: were the models equal, either one's answers on a group could be the other's, so the sign of each
    group's saving is a coin's (Edgington & Onghena, Randomization Tests, 2007, ch. 5; p with 4,999 flips after Phipson
    & Smyth 2010).
    """
    saving_N = champion.cost - candidate.cost
    _, group_N = np.unique(groups, return_inverse=True)
    saving_G = np.bincount(group_N, weights=saving_N)
    moved_G = saving_G[saving_G != 0]
    if independent(groups) and len(np.unique(np.abs(moved_G))) <= 1:
        return mcnemar(int(np.sum(moved_G > 0)), int(np.sum(moved_G < 0))), "McNemar's exact test"
    return _sign_flips(moved_G, seed=seed), f"sign flips of {len(saving_G)} groups"


def _parts(candidate: Scored, champion: Scored) -> tuple[Floats, Floats]:
    """(N, M) each: what an image adds to the difference, and whether it counts, for cost and for recall."""
    saved_N = candidate.cost - champion.cost
    if candidate.positive is None:
        return saved_N[:, None], np.ones((len(saved_N), 1))
    truth_N = (candidate.y_N == candidate.positive).astype(float)
    found_N = (candidate.correct.astype(float) - champion.correct) * truth_N
    return np.stack([saved_N, found_N], axis=1), np.stack([np.ones(len(truth_N)), truth_N], axis=1)


def _sign_flips(saving_G: Floats, *, seed: int) -> float:
    signs = np.random.default_rng(seed).integers(0, 2, size=(NUM_FLIPS, len(saving_G)), dtype=np.int8) * 2 - 1
    reached = np.count_nonzero(signs @ saving_G >= saving_G.sum() - 1e-9)
    return (reached + 1) / (NUM_FLIPS + 1)
