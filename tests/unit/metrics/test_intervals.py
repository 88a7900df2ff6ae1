from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.metrics.answers import right_where, scored
from tire_pipeline import metrics
from tire_pipeline.metrics import intervals


def width(values: dict[str, float], name: str) -> float:
    return values[f"{name}_high"] - values[f"{name}_low"]


def test_intervals_hold_the_value_and_widen_when_images_come_in_groups() -> None:
    s = scored()
    alone = metrics.with_intervals(s, np.arange(200))
    y_N = np.repeat([0, 1], 100)
    together = right_where(np.repeat(np.arange(20) % 5 > 0, 10), y_N)  # all shots of a tyre are right, or none
    grouped = metrics.with_intervals(together, np.repeat(np.arange(20), 10))
    for name in metrics.names(has_positive=True):
        assert alone[f"{name}_low"] <= alone[name] <= alone[f"{name}_high"]
    assert width(grouped, "accuracy") > 2 * width(metrics.with_intervals(together, np.arange(200)), "accuracy")


def test_proportions_of_independent_images_have_wilsons_interval() -> None:
    s = scored()
    got = metrics.with_intervals(s, np.arange(200))
    truth = s.y_N == 1
    hits = int(np.sum(s.predicted_N[truth] == 1))
    assert (got["recall_low"], got["recall_high"]) == pytest.approx(metrics.wilson(hits, int(truth.sum())))
    said = metrics.methods(["recall", "balanced_accuracy", "log_loss"], np.arange(200))
    assert said["recall"] == "Wilson"
    assert said["balanced_accuracy"].endswith("(MOVER)")
    assert said["log_loss"] == "bootstrap of 200 images"
    grouped = metrics.methods(["recall", "auroc"], np.arange(200) // 2)
    assert grouped == {"recall": "Wilson, for 100 groups", "auroc": "bootstrap of 100 groups"}


@pytest.mark.parametrize(("groups", "trials"), [(np.arange(40), 20), (np.arange(40) // 4, 5)])
def test_flawless_answers_are_no_certainty(groups: np.ndarray, trials: int) -> None:
    y_N = np.repeat([0, 1], 20)
    got = metrics.with_intervals(right_where(np.ones(40, bool), y_N), groups)
    assert (got["recall"], got["recall_high"]) == (1.0, 1.0)
    assert got["recall_low"] == pytest.approx(metrics.wilson(trials, trials)[0])
    assert got["recall_low"] < got["balanced_accuracy_low"] < 1.0
    for name in ("auroc", "auprc", "f1_macro"):
        assert (got[name], got[f"{name}_low"]) == (1.0, pytest.approx(metrics.wilson(trials, trials)[0]))
    assert (got["cost"], got["cost_low"]) == (0.0, 0.0) and got["cost_high"] > 0.1


def test_shots_that_are_right_or_wrong_together_are_worth_one() -> None:
    y_N, tyres = np.repeat([0, 1], 100), np.repeat(np.arange(20), 10)
    together = metrics.with_intervals(right_where(np.repeat(np.arange(20) % 5 > 0, 10), y_N), tyres)
    low, high = metrics.wilson(8, 10)
    assert together["recall_low"] < low and high < together["recall_high"] < high + 0.1  # ten tyres, and few of them
    apart = metrics.with_intervals(right_where(np.arange(200) % 10 > 1, y_N), tyres)  # two shots of each are wrong
    assert width(apart, "recall") < width(together, "recall") / 2


def test_one_group_of_a_class_proves_nothing() -> None:
    y_N, tyres = np.repeat([0, 1], [40, 10]), np.append(np.arange(40), np.full(10, 99))
    got = metrics.with_intervals(right_where(np.arange(50) != 45, y_N), tyres)
    assert got["recall"] == 0.9 and got["recall_low"] < 0.2
    assert (got["auroc_low"], got["auroc_high"]) == (0.0, 1.0)


def test_intervals_hold_the_truth_about_19_times_in_20() -> None:
    pool = scored(1, n=20_000)
    truth = metrics.point(pool)
    rng = np.random.default_rng(2)
    held = dict.fromkeys(("accuracy", "balanced_accuracy", "log_loss", "auroc"), 0)
    for _ in range(120):
        rows = rng.choice(20_000, 150, replace=False)
        s = metrics.Scored(pool.y_N[rows], pool.p_NK[rows], pool.predicted_N[rows], (1,))
        got = metrics.with_intervals(s, np.arange(150))
        for name in held:
            held[name] += got[f"{name}_low"] <= truth[name] <= got[f"{name}_high"]
    assert min(held.values()) >= 106, held  # 120 draws at 95 %: fewer has a chance of 1 in 300


def test_intervals_hold_the_truth_with_few_things_of_a_class() -> None:
    """Three defective tyres of four shots, sixty good ones of two; some tyres are harder than others."""
    y_N, tyres = np.repeat([1, 0], [12, 120]), np.append(np.arange(12) // 4, 3 + np.arange(120) // 2)
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(120):
        ease_G = np.append(rng.beta(3, 1, 3), rng.beta(4, 1, 60))  # on average 0.75 and 0.8
        got = metrics.with_intervals(right_where(rng.random(132) < ease_G[tyres], y_N), tyres)
        held += got["balanced_accuracy_low"] <= 0.775 <= got["balanced_accuracy_high"]
    assert held >= 106  # of what percentiles of the bootstrap alone give, two thirds hold it


def test_samples_are_drawn_in_pieces_that_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    y_N, groups = np.repeat([0, 1], 20), np.arange(40) // 2
    monkeypatch.setattr(intervals, "CELLS_MAX", 40 * 300)
    pieces = list(intervals.group_weights(y_N, groups))
    assert [len(p) for p in pieces] == [300, 300, 300, 100]
    for w_BN in pieces:
        assert (w_BN[:, ::2] == w_BN[:, 1::2]).all()
        assert (w_BN[:, y_N == 0].sum(axis=1) == 20).all()


def test_wilson_is_the_published_interval() -> None:
    low, high = metrics.wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_costs_below_one_leave_other_mistakes_at_one_and_the_interval_around_them() -> None:
    s = scored(num_classes=3, costs=metrics.Costs(miss=0.2, alarm=0.05))
    found = metrics.with_intervals(replace(s, predicted_N=np.where(s.y_N == 0, 2, s.y_N)), np.arange(200))
    assert 0 < found["cost_low"] < found["cost"] < found["cost_high"] < 1
