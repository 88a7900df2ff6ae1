"""Alert rules: one window's figures in, the alerts out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tire_pipeline.metrics import wilson


@dataclass(frozen=True)
class Rules:
    """Limits that a window must keep. A share counts as broken when its 95 % interval lies wholly beyond the limit,
    so that three images out of five raise no alarm where thirty out of fifty do; of fewer than five images none does,
    since 5 % lies below the interval of one error in three."""

    error_share_max: float = 0.05
    review_share_max: float = 0.30
    latency_p95_ms_max: float = 2000.0
    num_images_min_for_shares: int = 5
    num_predictions_min_for_latency: int = 20


@dataclass(frozen=True)
class Alert:
    """What a person must hear. `rule` names it for deduplication."""

    rule: str
    severity: str
    message: str


def judge(metrics: Mapping[str, Any], rules: Rules) -> list[Alert]:
    """Every alert of the window. An empty window raises none."""
    n = metrics["num_predictions"]
    alerts = []
    errors = metrics["num_errors"]
    if n >= rules.num_images_min_for_shares and wilson(errors, n)[0] > rules.error_share_max:
        alerts.append(
            Alert(
                "error_share",
                "critical",
                f"{errors} of {n} images could not be answered ({errors / n:.0%}, limit {rules.error_share_max:.0%}). "
                "Look at `error` in tire.predictions: a camera that writes broken files shows there.",
            )
        )
    answered = n - errors
    review = round(metrics["decision_shares"].get("review", 0.0) * answered)
    if answered >= rules.num_images_min_for_shares and wilson(review, answered)[0] > rules.review_share_max:
        alerts.append(
            Alert(
                "review_share",
                "warning",
                f"{review} of {answered} images went to review ({review / answered:.0%}, limit "
                f"{rules.review_share_max:.0%}): the model meets images unlike those it was trained on.",
            )
        )
    p95 = metrics["latency_p95_ms"]
    if n >= rules.num_predictions_min_for_latency and p95 > rules.latency_p95_ms_max:
        alerts.append(
            Alert(
                "latency_p95",
                "warning",
                f"95 % of {n} answers took up to {p95:.0f} ms (limit {rules.latency_p95_ms_max:.0f} ms). Look at the "
                "server's load: `inference_duration_seconds` and the queue on /metrics.",
            )
        )
    return alerts
