"""Predictions reach the ledger, or the disk and then the ledger, whatever the ledger does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tire_pipeline.errors import OutOfResources, ServiceUnavailable
from tire_pipeline.serving.capture import Capture
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.spool import Spool

DEADLINE_S = 10.0


class FakeLedger:
    """Rows by id; away, hanging or picky when told to be."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.away, self.refuses = False, ""
        self.goes_on = threading.Event()
        self.goes_on.set()

    def record_predictions(self, rows: Sequence[dict[str, Any]]) -> None:
        self.goes_on.wait()
        if self.away:
            raise ServiceUnavailable("The ledger did not answer.")
        if any(row["prediction_id"] == self.refuses for row in rows):
            raise ValueError("a row the database refuses")
        self.rows.update({row["prediction_id"]: row for row in rows})

    def record_feedback(self, prediction_id: str, label: str, source: str) -> None:
        raise NotImplementedError


def row(name: str) -> dict[str, Any]:
    return {"prediction_id": name, "at": datetime(2026, 11, 1, 8, 30, tzinfo=UTC), "probabilities": {"good": 0.25}}


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        threading.Event().wait(0.005)


def value(metrics: ServingMetrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name)


@pytest.fixture
def ledger() -> FakeLedger:
    return FakeLedger()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def capture(ledger: FakeLedger, folder: Path, metrics: ServingMetrics) -> Iterator[Capture]:
    capture = Capture(ledger, Spool(folder), metrics=metrics, capacity=100, retry_s=0.02)
    yield capture
    ledger.goes_on.set()
    capture.close()


def test_rows_arrive_as_they_were(capture: Capture, ledger: FakeLedger) -> None:
    capture.record(row("a"))
    assert capture.flush(timeout_s=DEADLINE_S)
    assert ledger.rows == {"a": row("a")}


def test_rows_wait_on_disk_while_the_ledger_is_away_and_follow_when_it_is_back(
    capture: Capture, ledger: FakeLedger, folder: Path, metrics: ServingMetrics
) -> None:
    ledger.away = True
    capture.record(row("a"))
    assert capture.flush(timeout_s=DEADLINE_S)
    assert ledger.rows == {} and len(list(folder.glob("*.jsonl"))) == 1
    assert value(metrics, "capture_spooled_total") == 1
    ledger.away = False
    until(lambda: ledger.rows)
    assert ledger.rows == {"a": row("a")}
    until(lambda: not list(folder.glob("*")))


def test_a_new_process_replays_what_an_earlier_one_left(ledger: FakeLedger, folder: Path) -> None:
    ledger.away = True
    first = Capture(ledger, Spool(folder), metrics=ServingMetrics(), retry_s=60)
    first.record(row("a"))
    first.close()
    ledger.away = False
    second = Capture(ledger, Spool(folder), metrics=ServingMetrics())
    until(lambda: ledger.rows)
    second.close()
    assert ledger.rows == {"a": row("a")}


def test_closing_writes_everything_taken(ledger: FakeLedger, folder: Path) -> None:
    capture = Capture(ledger, Spool(folder), metrics=ServingMetrics())
    for i in range(2000):
        capture.record(row(str(i)))
    capture.close()
    assert len(ledger.rows) == 2000


def test_closing_beside_a_ledger_that_hangs_leaves_every_row_on_disk(ledger: FakeLedger, folder: Path) -> None:
    ledger.goes_on.clear()
    capture = Capture(ledger, Spool(folder), metrics=ServingMetrics())
    for i in range(700):
        capture.record(row(str(i)))
    until(lambda: capture._writing)
    capture.close(timeout_s=0.05)
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    ledger.goes_on.set()
    capture.close()
    assert [json.loads(line)["prediction_id"] for line in lines] == [str(i) for i in range(700)]


def test_over_its_capacity_rows_are_dropped_and_counted(
    capture: Capture, ledger: FakeLedger, metrics: ServingMetrics
) -> None:
    ledger.goes_on.clear()
    capture.record(row("held"))
    until(lambda: capture._writing)
    for i in range(103):
        capture.record(row(str(i)))
    assert value(metrics, "capture_dropped_total") == 3
    ledger.goes_on.set()
    assert capture.flush(timeout_s=DEADLINE_S)
    assert len(ledger.rows) == 101


def test_a_row_that_the_database_refuses_does_not_hold_up_the_others(
    capture: Capture, ledger: FakeLedger, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.refuses = "bad"
    capture.record(row("bad"))
    until(lambda: list(folder.glob("*.rejected")))
    capture.record(row("fine"))
    until(lambda: "fine" in ledger.rows)
    assert "kept as .rejected" in caplog.text


def test_a_full_disk_costs_rows_but_not_the_server(ledger: FakeLedger, folder: Path, metrics: ServingMetrics) -> None:
    ledger.away = True
    capture = Capture(ledger, Spool(folder, max_bytes=-1), metrics=metrics)
    capture.record(row("a"))
    capture.close()
    assert value(metrics, "capture_dropped_total") == 1


def test_a_file_that_another_server_appends_to_is_left_alone(folder: Path) -> None:
    theirs, ours, taken = Spool(folder), Spool(folder), list[Any]()
    theirs.append([row("a")])
    assert not ours.replay_file(taken.extend)
    theirs.close()
    assert ours.replay_file(taken.extend)
    assert taken == [row("a")] and not ours.replay_file(taken.extend)


def test_a_line_cut_off_by_a_kill_is_skipped_and_the_others_are_kept(folder: Path) -> None:
    spool, taken = Spool(folder), list[Any]()
    spool.append([row("a"), row("b")])
    spool.close()
    path = next(folder.glob("*.jsonl"))
    path.write_bytes(path.read_bytes()[:-10])
    assert spool.replay_file(taken.extend)
    assert taken == [row("a")]


def test_a_folder_that_cannot_be_written_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutOfResources, match="cannot be kept"):
        Spool(tmp_path / "file" / "spool").append([row("a")])
