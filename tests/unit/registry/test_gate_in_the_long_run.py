"""How often the gate is right, over many promotions of drawn models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from tests.unit.metrics.answers import right_where
from tire_pipeline.metrics import Costs, Labels, chance_of_saving, mcnemar
from tire_pipeline.registry.comparison import compare
from tire_pipeline.registry.gate import Candidate, Champion, Gate, decide

N, DRAWS = 300, 500
Y = np.repeat([0, 1], N // 2)
GATE = Gate()
GOOD = Candidate({"balanced_accuracy": 0.9, "balanced_accuracy_low": 0.85, "ece": 0.02}, N, N, {"": N // 2})


def pairs(
    better: float, worse: float, *, seed: int, costs: Costs | None = None, alike: int = 1
) -> Iterator[tuple[Labels, Labels]]:
    """Models on 300 images of which the candidate alone is right on the share `better`, the champion on `worse`; each
    is right or wrong on `alike` neighbours together."""
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        u_N = rng.random(N // alike).repeat(alike)
        candidate, champion = u_N >= worse, (u_N < worse) | (u_N >= worse + better)
        both_wrong = rng.random(N) < 0.05
        right = [right_N & ~both_wrong for right_N in (candidate, champion)]
        yield {"": right_where(right[0], Y, costs)}, {"": right_where(right[1], Y, costs)}


def promoted(better: float, worse: float, *, seed: int, groups: np.ndarray, **drawn: Any) -> int:
    """How many of the 500 candidates go into production."""
    count = 0
    for both in pairs(better, worse, seed=seed, **drawn):
        if chance_of_saving(*both, groups)[0] < GATE.alpha:  # the others need no bounds to be refused
            count += decide(GOOD, Champion(1, compare(*both, groups)), GATE).promote
    return count


@pytest.mark.parametrize("costs", [Costs(), Costs(miss=20)], ids=["equal costs", "dear misses"])
@pytest.mark.parametrize(("shots", "alike"), [(1, 1), (3, 1), (3, 3)])
def test_an_equally_good_model_is_promoted_at_most_once_in_twenty(shots: int, alike: int, costs: Costs) -> None:
    found = promoted(0.06, 0.06, seed=shots, groups=np.arange(N) // shots, costs=costs, alike=alike)
    assert binom.sf(found - 1, DRAWS, 0.05) > 0.01, f"{found} of {DRAWS} were promoted"


@pytest.mark.parametrize("shots", [1, 3])
def test_the_evidence_of_a_comparison_is_json(shots: int) -> None:
    both = next(pairs(0.06, 0.06, seed=0))
    decision = decide(GOOD, Champion(1, compare(*both, np.arange(N) // shots)), GATE)
    assert not decision.promote
    assert json.loads(json.dumps([asdict(v) for v in decision.verdicts]))[-1]["passed"] is False


def test_five_points_more_are_found_as_often_as_computed() -> None:
    better, worse = 0.08, 0.03
    expected = computed_power(better * 0.95, worse * 0.95)
    found = promoted(better, worse, seed=7, groups=np.arange(N))
    spread = 2.6 * np.sqrt(expected * (1 - expected) / DRAWS)
    assert expected > 0.7
    assert found / DRAWS == pytest.approx(expected, abs=spread + 0.02)  # the bound on recall is computed as normal


def computed_power(better: float, worse: float, most: int = 34) -> float:
    """The probability that McNemar's test and the bound on recall both pass, summed over the discordant images."""
    half, shares = N // 2, [better, worse, 1 - better - worse]
    b, w = np.meshgrid(np.arange(most), np.arange(most), indexing="ij")
    chance_BW = multinomial.pmf(np.stack([b, w, half - b - w], axis=-1), half, shares)
    gain_BW = (b - w) / half
    bound_BW = gain_BW - 1.645 * np.sqrt(((b + w) / half - gain_BW**2) / half)
    not_worse_BW = chance_BW * (bound_BW >= -GATE.recall_margin)
    passes = np.array([[mcnemar(i, j) < GATE.alpha for j in range(2 * most)] for i in range(2 * most)])
    total = 0.0
    for i, j in zip(*np.nonzero(not_worse_BW > 1e-12), strict=True):
        total += not_worse_BW[i, j] * np.sum(chance_BW * passes[i : i + most, j : j + most])
    return float(total)
