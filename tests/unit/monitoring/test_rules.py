from __future__ import annotations

import math
from typing import Any

import pytest

from tire_pipeline.monitoring.rules import Rules, judge

QUIET: dict[str, Any] = {
    "num_predictions": 100,
    "num_errors": 0,
    "decision_shares": {"good": 1.0},
    "latency_p95_ms": 50.0,
}


def fired(**metrics: Any) -> list[str]:
    return [a.rule for a in judge({**QUIET, **metrics}, Rules())]


def test_a_quiet_window_raises_nothing() -> None:
    assert fired() == []


@pytest.mark.parametrize(
    ("metrics", "rule"),
    [
        ({"num_errors": 12}, "error_share"),
        ({"decision_shares": {"good": 0.55, "review": 0.45}}, "review_share"),
        ({"latency_p95_ms": 2000.1}, "latency_p95"),
    ],
)
def test_each_rule_fires_alone(metrics: dict[str, Any], rule: str) -> None:
    assert fired(**metrics) == [rule]


@pytest.mark.parametrize(
    "metrics",
    [
        {"num_errors": 5},
        {"decision_shares": {"good": 0.7, "review": 0.3}},
        {"latency_p95_ms": 2000.0},
        {"latency_p95_ms": math.nan},
    ],
)
def test_a_figure_at_its_limit_raises_nothing(metrics: dict[str, Any]) -> None:
    assert fired(**metrics) == []


@pytest.mark.parametrize(("review", "n", "alarm"), [(3, 5, False), (30, 50, True)])
def test_the_same_share_of_few_images_raises_no_alarm(review: int, n: int, alarm: bool) -> None:
    shares = {"good": 1 - review / n, "review": review / n}
    assert fired(num_predictions=n, decision_shares=shares) == (["review_share"] if alarm else [])


def test_one_error_of_two_images_and_a_few_slow_answers_raise_nothing() -> None:
    for n in (1, 2, 3, 4):
        assert fired(num_predictions=n, num_errors=1, decision_shares={"review": 1.0}) == []
    assert fired(num_predictions=5, num_errors=4) == ["error_share"]
    assert fired(num_predictions=19, latency_p95_ms=9000.0) == []
    assert fired(num_predictions=20, latency_p95_ms=9000.0) == ["latency_p95"]


def test_an_empty_window_raises_nothing() -> None:
    empty = {"num_predictions": 0, "num_errors": 0, "decision_shares": {}, "latency_p95_ms": None}
    assert judge(empty, Rules()) == []


def test_the_share_of_reviews_is_of_the_images_that_got_an_answer() -> None:
    shares = {"good": 0.4, "review": 0.6}
    assert fired(num_predictions=100, num_errors=50, decision_shares=shares) == ["error_share", "review_share"]
    assert fired(num_predictions=100, num_errors=95, decision_shares=shares) == ["error_share"]  # 3 of 5


def test_an_alert_says_the_figure_the_limit_and_where_to_look() -> None:
    (alert,) = judge({**QUIET, "num_errors": 12}, Rules())
    assert alert.severity == "critical"
    assert "12 of 100 images could not be answered (12%, limit 5%)" in alert.message
    assert "tire.predictions" in alert.message
