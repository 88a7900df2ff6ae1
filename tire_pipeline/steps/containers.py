"""The step that ends trainings nobody waits for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from tire_pipeline.steps.live import live

if TYPE_CHECKING:
    from tire_pipeline.stores.containers import TrainerContainer
    from tire_pipeline.wiring import Services

log = logging.getLogger(__name__)
FINAL = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


def reap(*, services: Services | None = None) -> list[dict[str, str]]:
    """Remove each trainer container whose task has ended or is gone; returns what was removed and why.

    A task that was interrupted and will be tried again keeps its container: the next try follows it. Nothing is removed
    while Airflow does not answer. Safe to repeat, and beside running trainings.
    """
    s = live(services)
    removed = []
    try:
        for container in s.containers.all():
            if reason := verdict(container, s.orchestrator.task_instance(*container.task)):
                s.containers.remove(container.id)
                log.warning("removed the container %s (%s): %s", container.name, container.state, reason)
                removed.append({"container": container.name, "state": container.state, "reason": reason})
    finally:
        if services is None:  # called every few seconds for months
            s.close()
    return removed


def verdict(container: TrainerContainer, task: dict[str, Any] | None) -> str:
    """Why nobody waits for the container any more, or "" where somebody does. Pure; `task` is None for one unknown."""
    dag_id, run_id, task_id, map_index = container.task
    named = f"{task_id}[{map_index}] of {dag_id} {run_id}"
    if task is None:
        return f"Airflow knows no {named}"
    return f"{named} has ended: {task['state']}" if task["state"] in FINAL else ""


def newest_try(dag_id: str, run_id: str, task_id: str, map_index: str, *, services: Services | None = None) -> int:
    """The number of the newest try of a task instance; 0 for one that Airflow does not know."""
    s = live(services)
    task = s.orchestrator.task_instance(dag_id, run_id, task_id, int(map_index))
    return int(task["try_number"]) if task else 0
