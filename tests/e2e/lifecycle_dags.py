"""What test_container_lifecycle.py runs: the pipeline's training task alone, with a trainer that only waits."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param
from tire_airflow.reaper import ReapOrphans
from tire_airflow.trainers import train_operator

SPEC = {"candidate": "cnn", "seconds": "{{ params.seconds }}", "deaf": "{{ params.deaf }}", "code": "{{ params.code }}"}


def lifecycle(dag_id: str, **options: Any) -> None:
    params = {
        "seconds": Param(5, type="integer"),
        "deaf": Param(False, type="boolean"),
        "code": Param(0, type="integer"),
    }
    with DAG(dag_id=dag_id, schedule=None, params=params, max_active_runs=4):
        train_operator()(task_id="train", spec=SPEC, retry_delay=timedelta(seconds=2), **options)


lifecycle("retried", retries=2)
lifecycle("once", retries=0)
lifecycle("limited", retries=0, execution_timeout=timedelta(seconds=10))

with DAG(dag_id="reaper", schedule="@once"):
    ReapOrphans(task_id="reap_orphans", period=timedelta(hours=1), retries=5, retry_delay=timedelta(seconds=2))
