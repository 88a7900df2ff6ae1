"""A person is asked before production, in a real Airflow: no leaves all as it was; yes counts, however early."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.conftest import Running, draw, wait_for
from tire_pipeline import stack, steps

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]
DAG = "/api/v2/dags/train_and_promote/dagRuns"
ENDING_S = 5.0  # the process of a task that has paused is still about to end
CONF = {"dataset_version": "v1", "candidates": ["cnn"], "epochs": 6, "threshold": 0.5, "approval": True}


def trigger(running: Running, run_id: str) -> None:
    body = {"dag_run_id": run_id, "logical_date": None, "conf": CONF}
    assert running.live.orchestrator._request("POST", DAG, json=body).status_code == 200


def approve(running: Running, run_id: str) -> dict[str, Any]:
    found = running.live.orchestrator.task_instance("train_and_promote", run_id, "approve")
    assert found
    return found


def reaches(running: Running, run_id: str, state: str) -> None:
    wait_for(
        lambda: approve(running, run_id)["state"] == state, timeout_s=600, what=f"`approve` of {run_id} to be {state}"
    )


def question(running: Running, run_id: str) -> str:
    return f"{DAG}/{run_id}/taskInstances/approve/-1/hitlDetails"


def answer(running: Running, run_id: str, option: str) -> None:
    body = {"chosen_options": [option], "params_input": {}}
    given = running.live.orchestrator._request("PATCH", question(running, run_id), json=body)
    assert given.status_code == 200, given.text


@contextmanager
def blind_scheduler(running: Running) -> Iterator[None]:
    """Airflow's scheduler sees nothing meanwhile; the tasks that it started go on."""
    pid = next(p.pid for p in stack.status(running.home) if p.name == "airflow-scheduler")
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def promoted(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """A stack with a model in production."""
    summary = steps.push(draw(tmp_path_factory.mktemp("push") / "a"), version="v1", services=running.live)
    running.finished(f"dataset__v1__{summary.marker}", timeout_s=900)
    return running


def test_a_no_leaves_production_as_it_was(promoted: Running) -> None:
    before = promoted.live.tracking.by_alias("production")
    trigger(promoted, "says-no")
    reaches(promoted, "says-no", "awaiting_input")
    asked = promoted.live.orchestrator.get(question(promoted, "says-no"))
    assert "The gate says" in asked["body"] and "model card" in asked["body"]
    answer(promoted, "says-no", "Reject")
    assert "rejected it in Airflow" in promoted.finished("says-no")["note"]
    assert promoted.live.tracking.by_alias("production") == before
    (row,) = [r for r in steps.promotions(run_key="says-no", services=promoted.live) if r["action"] == "refused"]
    assert row["actor"] == promoted.live.settings.airflow_user


def test_a_yes_that_airflow_takes_for_a_failure_still_promotes(promoted: Running) -> None:
    trigger(promoted, "says-yes")
    reaches(promoted, "says-yes", "running")
    with blind_scheduler(promoted):  # it finds the task answered before it has heard that the task paused
        reaches(promoted, "says-yes", "awaiting_input")
        answer(promoted, "says-yes", "Approve")
        time.sleep(ENDING_S)
    promoted.finished("says-yes")
    ended = approve(promoted, "says-yes")
    assert (ended["state"], ended["try_number"]) == ("success", 2)
    decided = steps.promotions(run_key="says-yes", services=promoted.live)
    assert decided[0]["action"] in ("produced", "refused") and "rejected" not in decided[0]["reason"]
