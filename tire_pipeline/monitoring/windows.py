"""The figures of one monitoring window, from the predictions and the feedback that fell into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def summarise(predictions: Sequence[Mapping[str, Any]], feedback: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Volume, errors, latency (ms), class and decision shares, confidence, and agreement with feedback.

    Shares are of the answered predictions. A figure of nothing is None, never an invented number.
    """
    answered = [p for p in predictions if not p["error"]]
    latencies = [p["latency_ms"] for p in predictions]
    confidences = [p["probability"] for p in answered]
    right = [f["predicted"] == f["given"] for f in feedback]
    return {
        "num_predictions": len(predictions),
        "num_errors": len(predictions) - len(answered),
        "error_share": _share(len(predictions) - len(answered), len(predictions)),
        "latency_p50_ms": _percentile(latencies, 50),
        "latency_p95_ms": _percentile(latencies, 95),
        "class_shares": _shares(p["label"] for p in answered),
        "decision_shares": _shares(p["decision"] for p in answered),
        "confidence_mean": float(np.mean(confidences)) if confidences else None,
        "confidence_p10": _percentile(confidences, 10),
        "brightness_mean": _mean([p["brightness"] for p in answered if p["brightness"] is not None]),
        "model_versions": sorted({p["model_version"] for p in answered if p["model_version"] is not None}),
        "num_feedback": len(right),
        "feedback_agreement": _mean([float(r) for r in right]),
    }


def _shares(values: Any) -> dict[str, float]:
    counts = Counter(str(v) for v in values)
    total = sum(counts.values())
    return {k: round(n / total, 4) for k, n in sorted(counts.items())}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _percentile(values: Sequence[float], q: float) -> float | None:
    return float(np.percentile(values, q)) if values else None
