from __future__ import annotations

from typing import Any

import pytest

from tire_pipeline.monitoring.windows import summarise


def prediction(**given: Any) -> dict[str, Any]:
    answer = {"label": "good", "decision": "good", "probability": 0.9, "brightness": 100.0, "model_version": 1}
    return {**answer, "latency_ms": 10.0, "error": None, **given}


def test_figures_of_a_window() -> None:
    failed = dict.fromkeys(("label", "decision", "probability", "brightness", "model_version"))
    rows = [
        prediction(),
        prediction(decision="review", probability=0.5, latency_ms=30.0, brightness=50.0, model_version=2),
        prediction(label="defective", decision="defective", brightness=None),
        prediction(**failed, error="no image", latency_ms=2.0),
    ]
    told = [{"predicted": "good", "given": "good"}, {"predicted": "good", "given": "defective"}]
    got = summarise(rows, told)
    assert (got["num_predictions"], got["num_errors"], got["error_share"]) == (4, 1, 0.25)
    assert got["class_shares"] == {"defective": 0.3333, "good": 0.6667}
    assert got["decision_shares"] == {"defective": 0.3333, "good": 0.3333, "review": 0.3333}
    assert got["latency_p50_ms"] == pytest.approx(10.0)
    assert got["confidence_mean"] == pytest.approx(0.7667, abs=1e-4)
    assert got["brightness_mean"] == 75.0
    assert got["model_versions"] == [1, 2]
    assert (got["num_feedback"], got["feedback_agreement"]) == (2, 0.5)


def test_figures_of_nothing_are_none_and_no_zero() -> None:
    got = summarise([], [])
    assert got["num_predictions"] == 0
    unknown = ("error_share", "latency_p95_ms", "confidence_mean", "brightness_mean", "feedback_agreement")
    assert {k: got[k] for k in unknown} == dict.fromkeys(unknown)


def test_a_window_of_errors_alone_has_latency_but_no_shares() -> None:
    got = summarise([prediction(error="no image", latency_ms=4.0)], [])
    assert (got["error_share"], got["latency_p95_ms"], got["decision_shares"]) == (1.0, 4.0, {})
