"""Sensor, trigger and trainers, without an Airflow around them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from tire_airflow import links, runs, sensors, trainers, triggers

from tire_pipeline import steps
from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.settings import Settings


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


@pytest.mark.parametrize(("code", "raised"), [(1, AirflowFailException), (2, AirflowFailException)])
def test_what_repeats_in_vain_is_not_retried(code: int, raised: type[Exception], monkeypatch: Any) -> None:
    kept: list[str] = []
    monkeypatch.setattr(trainers, "keep_reason", kept.append)
    with pytest.raises(raised, match="learning_rate"):
        trainers.raise_for(code, ["epoch 1", "error learning_rate is -1"])
    assert kept == ["learning_rate is -1"]


@pytest.mark.parametrize("code", [3, 4, -9])
def test_what_may_pass_by_itself_is_retried(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "keep_reason", lambda _: None)
    with pytest.raises(AirflowException) as raised:
        trainers.raise_for(code, [])
    assert not isinstance(raised.value, AirflowFailException)


def test_the_operator_is_chosen_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIRE_TRAINER", "docker")
    assert trainers.train_operator() is trainers.DockerTrainOperator
    monkeypatch.setenv("TIRE_TRAINER", "process")
    assert trainers.train_operator() is trainers.ProcessTrainOperator


def test_a_container_gets_s3_and_mlflow_and_no_other_secret() -> None:
    settings = Settings(
        s3_access_key_id="key", s3_secret_access_key="s3-secret", ledger_url="pg-secret", airflow_password="air-secret"
    )
    environment = trainers.container_environment(settings)
    assert environment["TIRE_S3_SECRET_ACCESS_KEY"] == "s3-secret"
    assert not {"pg-secret", "air-secret"} & set(environment.values())


def test_a_trainer_process_that_refuses_its_spec_fails_the_task_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trainers, "keep_reason", lambda _: None)
    monkeypatch.setenv("TIRE_HOME", str(tmp_path))
    spec = {"candidate": "cnn", "split": {}, "config": {"model_type": "cnn", "learning_rate": -1}}
    operator = trainers.ProcessTrainOperator(task_id="train", spec=spec)
    with pytest.raises(AirflowFailException, match="learning_rate is -1"):
        operator.execute({"ti": FakeTaskInstance()})


PARENT = """
import sys
from tire_airflow import trainers
operator = trainers.ProcessTrainOperator(task_id="train", spec={})
operator._run([sys.executable, "-c", "import time; time.sleep(60)"], {})
"""


def test_kill_9_of_the_task_leaves_no_trainer_behind() -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    task = subprocess.Popen([sys.executable, "-c", PARENT], env=env, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (children := psutil.Process(task.pid).children()) and time.monotonic() < deadline:
            time.sleep(0.05)
        (trainer,) = children
        os.kill(task.pid, signal.SIGKILL)
        task.wait()
        _, alive = psutil.wait_procs([trainer], timeout=10)
        assert alive == []
    finally:
        if task.poll() is None:
            task.kill()


def test_the_button_of_validate_opens_the_report_on_the_version_that_was_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: dict[str, str] = {}
    monkeypatch.setattr(links.XCom, "get_value", lambda *, ti_key, key: kept.get(key))
    monkeypatch.setattr(steps, "report_url", lambda version: f"http://mlflow/{version}/report.html")
    assert links.DataReportLink().get_link(None, ti_key=None) == ""
    kept["dataset_version"] = "v7"  # as the task leaves it before it judges: a refused version has a report, too
    assert links.DataReportLink().get_link(None, ti_key=None) == "http://mlflow/v7/report.html"
