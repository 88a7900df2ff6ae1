from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from tests.unit.metrics.answers import right_where
from tire_pipeline import metrics
from tire_pipeline.metrics import Costs, Labels, Scored, paired

Y = np.repeat([0, 1], 100)
ALONE = np.arange(200)


def pair(better: int, worse: int, costs: Costs | None = None) -> tuple[Labels, Labels]:
    """A candidate alone right on `better` images, and a champion alone right on `worse` others, among the positive."""
    candidate, champion = np.ones(200, bool), np.ones(200, bool)
    champion[100 : 100 + better] = False
    candidate[150 : 150 + worse] = False
    return {"": right_where(candidate, Y, costs)}, {"": right_where(champion, Y, costs)}


def test_the_paired_differences_see_a_better_model_and_not_a_copy() -> None:
    candidate, champion = pair(12, 2)
    found = metrics.paired_differences(candidate, champion, ALONE)
    assert found["recall"].value == pytest.approx(0.10)
    assert found["cost"].value == pytest.approx(-0.05)
    assert 0 < found["recall"].low < 0.10 < found["recall"].high
    assert found["cost"].low < -0.05 < found["cost"].high < 0
    same = metrics.paired_differences(champion, champion, ALONE)
    assert {(d.value, d.low, d.high) for d in same.values()} == {(0.0, 0.0, 0.0)}


def test_the_bounds_are_passed_once_in_twenty() -> None:
    rng = np.random.default_rng(0)
    over = 0
    for _ in range(200):
        candidate, champion = ({"": right_where(rng.random(200) < 0.85, Y)} for _ in range(2))
        over += metrics.paired_differences(candidate, champion, ALONE)["recall"].low > 0
    assert 3 <= over <= 19  # of 200 at 5 %: outside has a chance of 1 in 100


def test_shots_of_one_tyre_widen_the_bounds_and_what_both_find_hard_does_not() -> None:
    candidate, champion = pair(10, 0)
    alone = metrics.paired_differences(candidate, champion, ALONE)["recall"]
    together = metrics.paired_differences(candidate, champion, ALONE // 10)["recall"]
    assert alone.low > 0.04
    assert together.low < 0.0
    hard = np.arange(200) % 3 > 0
    both = [{"": right_where(champion[""].correct & hard, Y)}] * 2
    assert metrics.paired_differences(*both, ALONE)["recall"].low == 0.0


def test_without_a_positive_class_there_is_no_recall_to_compare() -> None:
    s = Scored(Y, np.eye(2)[Y], Y)
    assert set(metrics.paired_differences({"": s}, {"": s}, ALONE)) == {"cost"}


def test_a_defect_that_is_found_in_the_wrong_place_is_not_found() -> None:
    """Two labels may both have the positive class: what one of them loses, the other does not make good."""
    none_N = np.zeros(200, int)

    def answers(tread_N: np.ndarray, wall_N: np.ndarray) -> Labels:
        given = {"tread": (Y, tread_N), "wall": (1 - Y, wall_N)}
        return {label: Scored(y_N, np.eye(2)[given_N], given_N, (1,)) for label, (y_N, given_N) in given.items()}

    found = metrics.paired_differences(answers(Y, none_N), answers(none_N, 1 - Y), ALONE)
    assert (found["recall of tread"].value, found["recall of wall"].value) == (1.0, -1.0)


def test_the_costs_of_several_labels_add_up_and_a_label_without_a_positive_class_has_no_recall() -> None:
    better, worse = (right_where(np.arange(200) >= number, Y[::-1]) for number in (0, 20))  # twenty misses
    view = [Scored(Y, np.eye(2)[given], given) for given in (np.where(np.arange(200) < 60, 1 - Y, Y), Y)]
    models = {"bar": worse, "view": view[1]}, {"bar": better, "view": view[0]}
    found = metrics.paired_differences(*models, ALONE)
    assert set(found) == {"cost", "recall of bar"}
    assert found["cost"].value == pytest.approx((20 - 60) / 200)
    assert found["recall of bar"].value == pytest.approx(-0.2)
    assert metrics.chance_of_saving(*models, ALONE)[0] < 0.001


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (5, 0), (3, 0), (12, 4), (4, 12)])
def test_equal_costs_and_single_images_make_it_mcnemars_exact_test(better: int, worse: int) -> None:
    p, test = metrics.chance_of_saving(*pair(better, worse), ALONE)
    expected = binomtest(better, better + worse, alternative="greater").pvalue if better + worse else 1.0
    assert (p, test) == (pytest.approx(expected), "McNemar's exact test")


def test_sign_flips_agree_with_mcnemar_where_both_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, _ = metrics.chance_of_saving(*pair(12, 4), ALONE)
    monkeypatch.setattr(paired, "independent", lambda _: False)
    flipped, test = metrics.chance_of_saving(*pair(12, 4), ALONE)
    assert test == "sign flips of 200 groups"
    assert flipped == pytest.approx(exact, abs=0.01)


def test_shots_of_one_tyre_are_one_piece_of_evidence() -> None:
    alone, _ = metrics.chance_of_saving(*pair(10, 0), ALONE)
    together, test = metrics.chance_of_saving(*pair(10, 0), ALONE // 10)
    assert alone < 0.001
    assert together == pytest.approx(0.5, abs=0.02)
    assert test == "sign flips of 20 groups"


def test_a_dear_miss_outweighs_cheap_alarms() -> None:
    candidate = np.ones(200, bool)
    candidate[:10] = False  # ten alarms more
    champion = np.ones(200, bool)
    champion[100:108] = False  # eight misses more

    def p(costs: Costs) -> float:
        both = ({"": right_where(right_N, Y, costs)} for right_N in (candidate, champion))
        return metrics.chance_of_saving(*both, ALONE)[0]

    assert p(Costs()) > 0.5
    assert p(Costs(miss=20)) < 0.05


@pytest.mark.parametrize(("better", "worse"), [(0.08, 0.03), (0.10, 0.05)])
def test_the_power_is_the_share_of_drawn_experiments_that_find_the_difference(better: float, worse: float) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(300, [better, worse, 1 - better - worse], size=4000)
    found = np.mean([metrics.mcnemar(b, w) < 0.05 for b, w, _ in drawn])
    assert metrics.mcnemar_power(300, better, worse) == pytest.approx(found, abs=0.025)


def test_mcnemar_finds_nothing_more_often_than_promised_where_nothing_is() -> None:
    assert 0.01 < metrics.mcnemar_power(300, 0.06, 0.06) <= 0.05
