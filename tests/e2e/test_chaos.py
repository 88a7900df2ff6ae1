"""Kill -9 while the pipeline works: nothing is lost, nothing is done twice. Minutes long; `make chaos`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Running, draw, wait_for
from tire_pipeline import stack, steps

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3000)]


def kill_part(running: Running, name: str) -> None:
    """Kill -9 one part; the supervisor brings it back."""
    pid = next(p.pid for p in stack.status(running.home) if p.name == name)
    assert pid
    os.kill(pid, signal.SIGKILL)


def test_a_run_survives_the_death_of_scheduler_s3_and_everything(running: Running, tmp_path: Path) -> None:
    summary = steps.push(draw(tmp_path / "a"), version="v1", services=running.live)
    run_id = f"dataset__v1__{summary.marker}"
    wait_for(lambda: task_state(running, run_id, "train") == "running", timeout_s=200, what="a training")
    kill_part(running, "airflow-scheduler")
    wait_for(lambda: task_state(running, run_id, "train") == "running", timeout_s=300, what="the training again")
    kill_part(running, "s3")
    wait_for(lambda: healthy(running), timeout_s=200, what="a healthy stack")
    for part in stack.status(running.home):
        if part.pid:
            os.kill(part.pid, signal.SIGKILL)
    stack.up(running.home)
    record = running.finished(run_id, timeout_s=1500)
    assert record["state"] == "success", record["note"]
    runs = running.live.orchestrator.runs("train_and_promote")
    assert [r["dag_run_id"] for r in runs] == [run_id]
    produced = [r for r in steps.promotions(services=running.live) if r["action"] == "produced"]
    assert len(produced) == 1


def test_twenty_versions_at_once_get_one_run_each_though_the_scheduler_dies(running: Running, tmp_path: Path) -> None:
    before = {r["dag_run_id"] for r in running.live.orchestrator.runs("train_and_promote")}
    expected = set()
    for i in range(20):
        folder = draw(tmp_path / str(i), seed=100 + i, per_class=12)
        summary = steps.push(folder, version=f"many-{i:02d}", services=running.live)
        expected.add(f"dataset__many-{i:02d}__{summary.marker}")
        if i == 10:
            kill_part(running, "airflow-scheduler")

    def created() -> set[str]:
        return {r["dag_run_id"] for r in running.live.orchestrator.runs("train_and_promote")} - before

    wait_for(lambda: expected <= created(), timeout_s=600, what="twenty runs")
    assert created() == expected


def task_state(running: Running, run_id: str, task_id: str) -> Any:
    if running.run(run_id) is None:
        return None
    found = running.live.orchestrator.task_instances("train_and_promote", run_id)
    states = [t["state"] for t in found if t["task_id"] == task_id]
    return next((s for s in states if s == "running"), states[0] if states else None)


def healthy(running: Running) -> bool:
    return all(p.state == "healthy" for p in stack.status(running.home))
