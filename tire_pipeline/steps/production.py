"""Steps on production: watch, and take what people say."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tire_pipeline.errors import InputError
from tire_pipeline.steps.live import live

if TYPE_CHECKING:
    from tire_pipeline.wiring import Services


def monitor(
    *, now: datetime | None = None, window: timedelta = timedelta(minutes=15), services: Services | None = None
) -> dict[str, Any]:
    """Measure the window that ended last, judge it, and send each alert once. Safe to repeat for the same window."""
    from tire_pipeline.alerts import send
    from tire_pipeline.monitoring.rules import Rules, judge
    from tire_pipeline.monitoring.windows import summarise

    if window <= timedelta(0):
        raise InputError(f"The window is {window}, but must be longer than nothing.")
    s = live(services)
    end = now or datetime.now(UTC)
    start = end - window
    metrics = summarise(s.ledger.predictions_between(start, end), s.ledger.feedback_between(start, end))
    s.ledger.record_window(start=start, end=end, metrics=metrics)
    alerts = judge(metrics, Rules())
    for alert in alerts:
        alert_id = s.ledger.record_alert(
            rule=alert.rule, severity=alert.severity, message=alert.message, window_end=end
        )
        text = f":rotating_light: *{s.settings.project}* {alert.severity}: {alert.message}"
        if alert_id is not None and send(s.settings, text):
            s.ledger.mark_delivered(alert_id)
    return {
        "start": start.isoformat(),
        "end": end.isoformat(),
        "metrics": metrics,
        "alerts": [asdict(a) for a in alerts],
    }


def feedback(csv_file: Path, *, services: Services | None = None) -> dict[str, Any]:
    """Record each row (prediction_id, label) of a CSV; rows that cannot be used are named with their reason.

    InputError for a file that cannot be read to its end; nothing of it is recorded then.
    """
    from tire_pipeline.datasets.labels import read_rows, read_text

    if not csv_file.is_file():
        raise InputError(f"The file {csv_file} does not exist.")
    ledger, refused, recorded = live(services).ledger, [], 0
    columns, rows = read_rows(read_text(csv_file.read_bytes(), where=str(csv_file)), where=str(csv_file))
    if missing := {"prediction_id", "label"} - set(columns):
        raise InputError(f"{csv_file} lacks the column {', '.join(sorted(missing))}; it needs prediction_id,label.")
    for line, row in list(rows):
        try:
            ledger.record_feedback((row["prediction_id"] or "").strip(), (row["label"] or "").strip(), "csv")
            recorded += 1
        except InputError as error:
            refused.append(f"line {line}: {error}")
    return {"recorded": recorded, "refused": refused}
