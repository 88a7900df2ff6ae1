"""A person is asked before production, in a real Airflow: no leaves everything as it was, yes lets the run go on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Running, draw, wait_for
from tire_pipeline import steps

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]
# Airflow 3.3 takes an answer that comes before its scheduler has seen the task pause for a failure, and asks again.
READING_S = 5.0
DAG = "/api/v2/dags/train_and_promote/dagRuns"


def asked(running: Running, run_id: str) -> dict[str, Any]:
    """The question of a run that waits for its answer."""
    conf = {"dataset_version": "v1", "candidates": ["cnn"], "epochs": 6, "threshold": 0.5, "approval": True}
    body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
    assert running.live.orchestrator._request("POST", DAG, json=body).status_code == 200

    def waiting() -> Any:
        found = running.live.orchestrator.task_instances("train_and_promote", run_id)
        return any(t["task_id"] == "approve" and t["state"] == "awaiting_input" for t in found)

    wait_for(waiting, timeout_s=600, what=f"the question of {run_id}")
    return running.live.orchestrator.get(f"{DAG}/{run_id}/taskInstances/approve/-1/hitlDetails")


def answer(running: Running, run_id: str, option: str) -> dict[str, Any]:
    """Answer as a person does on the page, who reads first; returns the finished run."""
    time.sleep(READING_S)
    path = f"{DAG}/{run_id}/taskInstances/approve/-1/hitlDetails"
    given = running.live.orchestrator._request("PATCH", path, json={"chosen_options": [option], "params_input": {}})
    assert given.status_code == 200, given.text
    return running.finished(run_id)


def test_a_no_leaves_production_as_it_was_and_a_yes_promotes(running: Running, tmp_path: Path) -> None:
    summary = steps.push(draw(tmp_path / "a"), version="v1", services=running.live)
    running.finished(f"dataset__v1__{summary.marker}", timeout_s=900)
    before = running.live.tracking.by_alias("production")

    question = asked(running, "says-no")
    assert "The gate says" in question["body"] and "model card" in question["body"]
    record = answer(running, "says-no", "Reject")
    assert "rejected it in Airflow" in record["note"]
    assert running.live.tracking.by_alias("production") == before
    (row,) = [r for r in steps.promotions(run_key="says-no", services=running.live) if r["action"] == "refused"]
    assert row["actor"] == running.live.settings.airflow_user

    asked(running, "says-yes")
    answer(running, "says-yes", "Approve")
    states = {
        t["task_id"]: t["state"] for t in running.live.orchestrator.task_instances("train_and_promote", "says-yes")
    }
    assert states["approve"] == "success" and states["produce"] in ("success", "skipped")
    decided = steps.promotions(run_key="says-yes", services=running.live)
    assert decided[0]["action"] in ("produced", "refused") and "rejected" not in decided[0]["reason"]
