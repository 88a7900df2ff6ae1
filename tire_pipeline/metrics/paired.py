"""Two models on the same images: the difference, its bounds, and whether chance explains it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from tire_pipeline.metrics.intervals import Groups, group_weights, independent, reach
from tire_pipeline.metrics.scored import Floats, Labels, cost_of

NUM_FLIPS = 4999
MCNEMAR = "McNemar's exact test"


@dataclass(frozen=True)
class Difference:
    """Candidate minus champion. `low` and `high` are one-sided bounds: each is passed with 5 % probability."""

    value: float
    low: float
    high: float


def paired_differences(
    candidate: Labels, champion: Labels, groups: Groups, *, alpha: float = 0.05, seed: int = 0
) -> dict[str, Difference]:
    """The differences in `cost` an image and, for every label with a positive class, in its `recall` (`recall of
    <label>` where there are several), by bootstrap of whole groups.

    Each model is given by its answers for every label that an image has; their costs add up. Both are weighted alike
    in every sample, so what is hard for both does not widen the bounds at `alpha`, which allow for few groups as those
    of one model do.
    """
    kind_N = np.unique(np.stack([s.y_N for s in candidate.values()]), axis=1, return_inverse=True)[1]
    counted = _counted(candidate, champion)
    samples: dict[str, list[Floats]] = {name: [] for name in counted}
    with np.errstate(invalid="ignore"):
        for w_BN in group_weights(kind_N, groups, seed=seed):
            for name, (gain_N, among_N) in counted.items():
                samples[name].append((w_BN @ gain_N) / (w_BN @ among_N))
        values = {name: float(gain_N.sum() / among_N.sum()) for name, (gain_N, among_N) in counted.items()}
    found = {}
    for name, value in values.items():
        num_groups = len(np.unique(groups[counted[name][1] > 0]))
        far = reach(np.concatenate(samples[name]), num_groups, alpha=alpha)
        found[name] = Difference(value, value - far, value + far)
    return found


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


def chance_of_saving(candidate: Labels, champion: Labels, groups: Groups, *, seed: int = 0) -> tuple[float, str]:
    """(p, test): how likely two equal models differ in cost as much as these, in the candidate's favour.

    Where every image stands alone and every mistake costs the same this is McNemar's exact test. Otherwise its
    generalisation: were the models equal, either one's answers on a group could be the other's, so the sign of each
    group's saving is a coin's (Edgington & Onghena, Randomization Tests, 2007, ch. 5; p with 4,999 flips after Phipson
    & Smyth 2010).
    """
    saving_N = cost_of(champion) - cost_of(candidate)
    _, group_N = np.unique(groups, return_inverse=True)
    saving_G = np.bincount(group_N, weights=saving_N)
    moved_G = saving_G[saving_G != 0]
    if independent(groups) and len(np.unique(np.abs(moved_G))) <= 1:
        return mcnemar(int(np.sum(moved_G > 0)), int(np.sum(moved_G < 0))), MCNEMAR
    return _sign_flips(moved_G, seed=seed), f"sign flips of {len(saving_G)} groups"


def _counted(candidate: Labels, champion: Labels) -> dict[str, tuple[Floats, Floats]]:
    """By name, (N,) each: what an image adds to the difference, and whether it counts."""
    saved_N = cost_of(candidate) - cost_of(champion)
    counted: dict[str, tuple[Floats, Floats]] = {"cost": (saved_N, np.ones(len(saved_N)))}
    for label, mine in candidate.items():
        if mine.positives:
            truth_N = mine.truth.astype(float)
            gain_N = (mine.given.astype(float) - champion[label].given) * truth_N
            counted[f"recall of {label}" if label else "recall"] = gain_N, truth_N
    return counted


def _sign_flips(saving_G: Floats, *, seed: int) -> float:
    signs = np.random.default_rng(seed).integers(0, 2, size=(NUM_FLIPS, len(saving_G)), dtype=np.int8) * 2 - 1
    reached = int(np.count_nonzero(signs @ saving_G >= saving_G.sum() - 1e-9))
    return (reached + 1) / (NUM_FLIPS + 1)
