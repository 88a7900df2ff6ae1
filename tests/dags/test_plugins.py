"""Sensor, triggers and what a run knows of itself, without an Airflow around them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from tire_airflow import links, reaper, runs, sensors, triggers

from tire_pipeline import steps
from tire_pipeline.errors import ServiceUnavailable


class FakeTaskInstance:
    """A task instance that knows which runs there are, and keeps what is pushed."""

    dag_id, run_id, task_id, map_index, log_url = "d", "r", "train", 0, "http://airflow/log"

    def __init__(self, existing: set[str] | None = None, states: dict[str, str] | None = None) -> None:
        self.existing, self.states, self.pushed = existing or set(), states or {}, {}

    def get_dr_count(self, *, dag_id: str, run_ids: list[str]) -> int:
        return len(self.existing & set(run_ids))

    def get_task_states(self, *, dag_id: str, run_ids: list[str]) -> dict[str, dict[str, str]]:
        return {run_ids[0]: self.states}

    def xcom_push(self, *, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, *, task_ids: Any, key: str = "", map_indexes: int | None = None) -> Any:
        return {("train", 1): "out of memory", ("validate", None): "one class"}.get((task_ids, map_indexes))


def listing(*versions: tuple[str, str | None]) -> list[dict[str, Any]]:
    return [{"version": v, "marker": m, "complete": m is not None} for v, m in versions]


def sensor() -> sensors.NewVersionSensor:
    return sensors.NewVersionSensor(task_id="wait", pipeline="train_and_promote")


def test_the_sensor_starts_each_complete_version_that_has_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "list_versions", lambda: listing(("a", "11"), ("b", "22"), ("open", None)))
    ti = FakeTaskInstance({"dataset__a__11"})
    found = sensor().execute({"ti": ti})
    assert found == [{"trigger_run_id": "dataset__b__22", "conf": {"dataset_version": "b"}}]


def test_the_sensor_sleeps_when_every_version_has_its_run_and_tells_the_trigger_what_it_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "list_versions", lambda: listing(("a", "11"), ("open", None)))
    with pytest.raises(TaskDeferred) as deferred:
        sensor().execute({"ti": FakeTaskInstance({"dataset__a__11"})})
    assert deferred.value.trigger.known == [("a", "11")]


def test_a_version_that_got_its_run_while_the_trigger_fired_is_not_started_again() -> None:
    event = {"versions": [["a", "11"], ["b", "22"]]}
    found = sensor().execute_complete({"ti": FakeTaskInstance({"dataset__a__11"})}, event)
    assert [f["trigger_run_id"] for f in found] == ["dataset__b__22"]


def test_the_trigger_fires_on_a_new_marker_and_outlives_an_absent_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([listing(("a", "11")), ServiceUnavailable("down"), listing(("a", "12"), ("b", None))])

    def list_versions() -> list[dict[str, Any]]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(steps, "list_versions", list_versions)
    path, arguments = triggers.NewVersionTrigger(known=[("a", "11")], poke_interval=0.01).serialize()
    assert path == "tire_airflow.triggers.NewVersionTrigger"
    trigger = triggers.NewVersionTrigger(**json.loads(json.dumps(arguments)))
    event = asyncio.run(anext(trigger.run()))
    assert event.payload == {"versions": [["a", "12"]]}


def test_a_failed_candidate_stops_nothing_while_another_was_evaluated() -> None:
    failed = runs.failures(FakeTaskInstance(states={"train_1": "failed", "train_0": "success", "report": "running"}))
    assert failed == ["train_1: out of memory"]
    assert not runs.stops_the_run(failed, num_evaluated=1)
    assert runs.stops_the_run(failed, num_evaluated=0)


def test_any_other_failure_stops_the_run_with_its_reason() -> None:
    failed = runs.failures(FakeTaskInstance(states={"validate": "failed"}))
    assert failed == ["validate: one class"]
    assert runs.stops_the_run(failed, num_evaluated=0)


def reap_task() -> reaper.ReapOrphans:
    return reaper.ReapOrphans(task_id="reap_orphans", period=timedelta(minutes=15))


def test_the_reaper_waits_in_the_triggerer_until_the_next_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIRE_TRAINER", "docker")
    due = datetime.now(UTC)
    with pytest.raises(TaskDeferred) as deferred:
        reap_task().execute({"dag_run": SimpleNamespace(run_after=due)})
    assert datetime.fromisoformat(deferred.value.trigger.until) == due + timedelta(minutes=15)
    assert timedelta(minutes=15) < deferred.value.timeout < timedelta(minutes=17)


def test_there_is_nothing_to_reap_where_no_engine_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIRE_TRAINER", "kubernetes")
    with pytest.raises(AirflowSkipException, match="kubernetes"):
        reap_task().execute({"dag_run": SimpleNamespace(run_after=datetime.now(UTC))})


def test_the_reaping_goes_on_over_an_absent_engine_and_says_at_its_end_what_was_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = {"container": "tire-train-cnn-1", "state": "running", "reason": "train[0] has ended: failed"}
    answers = iter([ServiceUnavailable("no engine"), [gone], []])

    def reap() -> list[dict[str, str]]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(steps, "reap", reap)
    until = datetime.now(UTC) + timedelta(seconds=0.15)
    path, arguments = reaper.ReapTrigger(until=until.isoformat(), every_s=0.1).serialize()
    assert path == "tire_airflow.reaper.ReapTrigger"
    event = asyncio.run(anext(reaper.ReapTrigger(**json.loads(json.dumps(arguments))).run()))
    assert event.payload == {"removed": [gone]}


def test_the_button_of_validate_opens_the_report_on_the_version_that_was_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: dict[str, str] = {}
    monkeypatch.setattr(links.XCom, "get_value", lambda *, ti_key, key: kept.get(key))
    monkeypatch.setattr(steps, "report_url", lambda version: f"http://mlflow/{version}/report.html")
    assert links.DataReportLink().get_link(None, ti_key=None) == ""
    kept["dataset_version"] = "v7"  # as the task leaves it before it judges: a refused version has a report, too
    assert links.DataReportLink().get_link(None, ti_key=None) == "http://mlflow/v7/report.html"
