from __future__ import annotations

import numpy as np
import pytest

from tire_pipeline.metrics import Costs
from tire_pipeline.training.threshold import choose_threshold, review_band

TRUTH = np.array([True, True, False, False])


def drawn(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth_N = rng.random(n) < 0.3
    return np.clip(rng.normal(np.where(truth_N, 0.6, 0.35), 0.15), 0, 1), truth_N


def test_the_threshold_is_the_middle_of_the_widest_gap_that_separates_best() -> None:
    assert choose_threshold(np.array([0.9, 0.5, 0.1, 0.2]), TRUTH) == pytest.approx(0.35)
    assert choose_threshold(np.array([0.9, 0.1, 0.3, 0.05]), TRUTH) == pytest.approx(0.6)


def test_the_threshold_stays_inside_where_the_scores_are_certain() -> None:
    assert choose_threshold(np.array([1.0, 0.0]), np.array([True, False])) == 0.5
    assert choose_threshold(np.array([1.0, 0.999]), np.array([True, False])) == 0.98


def test_a_threshold_near_nothing_is_not_rounded_to_nothing() -> None:
    p_N, truth_N = np.array([0.9, 8.4e-5, 8.2e-5, 1e-6, 0.0]), np.array([True, True, False, False, False])
    threshold = choose_threshold(p_N, truth_N, recall_min=1.0)
    assert 8.2e-5 < threshold <= 8.4e-5
    assert review_band(threshold)[0] < threshold


@pytest.mark.parametrize("costs", [Costs(1, 1), Costs(20, 1), Costs(1, 5)])
def test_no_other_threshold_is_cheaper(costs: Costs) -> None:
    p_N, truth_N = drawn()

    def cost(threshold: float) -> float:
        return float(
            np.sum(truth_N & (p_N < threshold)) * costs.miss + np.sum(~truth_N & (p_N >= threshold)) * costs.alarm
        )

    chosen = choose_threshold(p_N, truth_N, costs=costs)
    assert cost(chosen) == min(cost(c) for c in np.linspace(0.02, 0.98, 2000))


def test_dear_misses_lower_the_threshold_and_dear_alarms_raise_it() -> None:
    p_N, truth_N = drawn()
    by_cost = [choose_threshold(p_N, truth_N, costs=c) for c in (Costs(20, 1), Costs(1, 1), Costs(1, 20))]
    assert by_cost == sorted(set(by_cost))


@pytest.mark.parametrize("recall_min", [0.9, 0.98, 1.0])
def test_the_recall_does_not_fall_below_its_floor(recall_min: float) -> None:
    p_N, truth_N = drawn()
    free = choose_threshold(p_N, truth_N, costs=Costs(1, 20))
    floored = choose_threshold(p_N, truth_N, costs=Costs(1, 20), recall_min=recall_min)
    assert np.mean(p_N[truth_N] >= free) < recall_min <= np.mean(p_N[truth_N] >= floored)
    assert np.sum(p_N[~truth_N] >= floored) >= np.sum(p_N[~truth_N] >= free)


def test_the_floor_holds_where_a_defect_hides_below_the_lowest_threshold() -> None:
    assert choose_threshold(np.array([0.9, 0.001, 0.3, 0.0001]), TRUTH, recall_min=1.0) <= 0.001


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.98])
def test_the_review_band_holds_the_threshold_and_stays_within_probabilities(threshold: float) -> None:
    low, high = review_band(threshold)
    assert 0 <= low < threshold < high <= 1


def test_a_person_looks_where_deciding_is_dearer_than_looking() -> None:
    low, high = review_band(0.3, costs=Costs(20, 1), review_cost=0.5)
    assert (low, high) == (0.025, 0.5)  # at 0.025 a miss is worth 0.5 on average, at 0.5 an alarm
    assert review_band(0.3, costs=Costs(20, 1), review_cost=2.0) == (0.1, 0.3)
    assert review_band(0.3, costs=Costs(20, 1), review_cost=20.0) == (0.3, 0.3)


def test_a_positive_image_without_any_probability_makes_a_full_recall_count_every_image_as_positive() -> None:
    p_N, truth_N = np.array([0.0, 0.9, 0.1]), np.array([True, True, False])
    assert choose_threshold(p_N, truth_N, recall_min=1.0) == 0.0
