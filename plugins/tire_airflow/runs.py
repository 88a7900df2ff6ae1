"""What a run knows of itself: which of its tasks failed, and why."""

from __future__ import annotations

from typing import Any

from tire_airflow.tasks import REASON

PER_CANDIDATE = ("train", "evaluate")


def returned(ti: Any, task_id: str) -> list[Any]:
    """What each map index of a mapped task returned; a list of one where one did, empty where none did."""
    return [value for value in ti.xcom_pull(task_ids=[task_id]) if value is not None]


def failures(ti: Any) -> list[str]:
    """`task: reason` of each failed task of this run, those of single candidates with their number."""
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id])[ti.run_id]
    failed = sorted(key for key, state in states.items() if state == "failed")
    return [f"{key}: {_reason(ti, key) or 'see its log'}" for key in failed]


def stops_the_run(failed: list[str], *, num_evaluated: int) -> bool:
    """One candidate's failure does not stop the others; all failing does, and any other step's failure."""
    others = [f for f in failed if not f.startswith(PER_CANDIDATE)]
    return bool(others) or (bool(failed) and num_evaluated == 0)


def _reason(ti: Any, key: str) -> str | None:
    """`key` is a task id, with `_<map index>` for a mapped one."""
    task_id, _, index = key.rpartition("_")
    mapped = task_id in PER_CANDIDATE and index.isdigit()
    found = ti.xcom_pull(
        task_ids=task_id if mapped else key, key=REASON, **({"map_indexes": int(index)} if mapped else {})
    )
    return str(found) if found else None
