from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tire_pipeline import steps
from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.stores.containers import TrainerContainer

LABELS = {"dag_id": "train_and_promote", "run_id": "r", "task_id": "train", "deployment": "d"}


class Engine:
    """Containers of one deployment, by map index."""

    def __init__(self, *indices: int) -> None:
        self.there = {
            i: TrainerContainer(f"id{i}", f"tire-{i}", "running", {**LABELS, "map_index": str(i)}) for i in indices
        }

    def all(self) -> list[TrainerContainer]:
        return list(self.there.values())

    def remove(self, container_id: str) -> None:
        del self.there[int(container_id.removeprefix("id"))]


class Airflow:
    """Task instances by map index; an Airflow with none does not answer."""

    def __init__(self, *states: str | None) -> None:
        self.states = states

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> dict[str, Any] | None:
        if not self.states:
            raise ServiceUnavailable("Airflow is away")
        known = map_index < len(self.states)
        return {"state": self.states[map_index], "try_number": 2} if known else None


def test_only_containers_whose_task_has_ended_or_is_gone_are_removed() -> None:
    airflow = Airflow("running", "up_for_retry", None, "restarting", "success", "failed", "removed")
    engine = Engine(*range(9))
    removed = steps.reap(services=SimpleNamespace(containers=engine, orchestrator=airflow))
    assert set(engine.there) == {0, 1, 2, 3}
    assert [r["container"] for r in removed] == ["tire-4", "tire-5", "tire-6", "tire-7", "tire-8"]
    assert removed[1]["reason"] == "train[5] of train_and_promote r has ended: failed"
    assert removed[-1]["reason"] == "Airflow knows no train[8] of train_and_promote r"


def test_nothing_is_removed_while_airflow_does_not_answer() -> None:
    engine = Engine(0, 1)
    with pytest.raises(ServiceUnavailable):
        steps.reap(services=SimpleNamespace(containers=engine, orchestrator=Airflow()))
    assert set(engine.there) == {0, 1}


def test_the_newest_try_of_a_task_is_airflows_word_for_it() -> None:
    services = SimpleNamespace(orchestrator=Airflow("running"))
    assert steps.newest_try("d", "r", "train", "0", services=services) == 2
    assert steps.newest_try("d", "r", "train", "1", services=services) == 0
