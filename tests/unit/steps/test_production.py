from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tire_pipeline import steps
from tire_pipeline.errors import InputError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def failures(count: int, *, at: datetime = NOON - timedelta(minutes=5)) -> list[dict[str, Any]]:
    unknown = dict.fromkeys(("label", "decision", "probability", "brightness", "model_version"))
    return [{**unknown, "at": at, "latency_ms": 1.0, "error": "no image"} for _ in range(count)]


def test_a_bad_window_is_recorded_and_alerted_once_however_often_it_is_measured(fake: Any, caplog: Any) -> None:
    fake.ledger.seen = failures(10)
    first = steps.monitor(now=NOON, services=fake)
    again = steps.monitor(now=NOON, services=fake)
    assert first == again
    assert [a["rule"] for a in first["alerts"]] == ["error_share"]
    assert list(fake.ledger.alerts) == [("error_share", NOON)]
    assert list(fake.ledger.recorded_windows) == [(NOON - timedelta(minutes=15), NOON)]


def test_only_what_fell_into_the_window_counts(fake: Any) -> None:
    fake.ledger.seen = failures(10, at=NOON) + failures(10, at=NOON - timedelta(minutes=16))
    assert steps.monitor(now=NOON, services=fake)["metrics"]["num_predictions"] == 0
    longer = steps.monitor(now=NOON, window=timedelta(hours=1), services=fake)
    assert longer["metrics"]["num_predictions"] == 10


@pytest.mark.parametrize("minutes", [0, -15])
def test_a_window_without_length_is_bad_input(fake: Any, minutes: int) -> None:
    with pytest.raises(InputError, match="must be longer than nothing"):
        steps.monitor(now=NOON, window=timedelta(minutes=minutes), services=fake)


def test_feedback_is_recorded_row_by_row(tmp_path: Path, fake: Any) -> None:
    (tmp_path / "f.csv").write_text("\ufeffprediction_id,label\n a ,good\nb\n", encoding="utf-8")
    assert steps.feedback(tmp_path / "f.csv", services=fake) == {"recorded": 2, "refused": []}
    assert fake.ledger.said == [("a", "good"), ("b", "")]  # the real ledger refuses the second


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"id,label\n1,good\n", "lacks the column prediction_id; it needs prediction_id,label"),
        (b"", "lacks the column label, prediction_id"),
        ("prediction_id,label\n1,Gr\u00fcn\n".encode("cp1252"), "is not UTF-8"),
        (b"prediction_id,label\n1,good\n2,go\0od\n", r"f\.csv, line 3, has a NUL character"),
        (b"prediction_id,label\n1,good\n2," + b"x" * 2**18, r"f\.csv, line 3, cannot be read: field larger than"),
        (b"prediction_id,label,label\n1,good,bad\n", "has the column 'label' more than once"),
    ],
)
def test_a_feedback_file_that_cannot_be_read_is_refused(tmp_path: Path, fake: Any, data: bytes, said: str) -> None:
    (tmp_path / "f.csv").write_bytes(data)
    with pytest.raises(InputError, match=said):
        steps.feedback(tmp_path / "f.csv", services=fake)
    assert fake.ledger.said == []


def test_prediction_without_a_model_in_production_or_without_files_is_bad_input(tmp_path: Path, fake: Any) -> None:
    with pytest.raises(InputError, match="There is no image"):
        steps.predict([tmp_path], services=fake)
    with pytest.raises(InputError, match="does not exist"):
        steps.predict([tmp_path / "absent"], services=fake)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"No model is in production yet. Name a bundle with --bundle"):
        steps.predict([tmp_path], services=fake)
