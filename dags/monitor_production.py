"""### monitor_production
Every quarter of an hour: what did production do, and must a person hear of it?

Reads the predictions and the feedback of the window that just ended, writes its figures to `tire.monitoring_windows`,
judges them by the rules, and posts each alert once to Slack (to the log where no Slack is configured).

Until the next window, `reap_orphans` looks every ten seconds for trainer containers whose task has ended or is gone,
and removes them (skipped unless TIRE_TRAINER is `docker`).

**An alert says** what was measured, of how many, and where to look. **No alerts though something is wrong?** Does the
server write to the ledger (`capture` on its /metrics)? Is TIRE_SLACK_WEBHOOK_URL set for Airflow?
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG
from tire_airflow.reaper import ReapOrphans
from tire_airflow.tasks import step

from tire_pipeline import steps

WINDOW = timedelta(minutes=15)

with DAG(
    dag_id="monitor_production",
    schedule="*/15 * * * *",
    max_active_runs=1,
    catchup=False,
    doc_md=__doc__,
    tags=["tire", "monitoring"],
    default_args={"retries": 3, "retry_delay": timedelta(seconds=10)},
):

    @step
    def measure(dag_run: Any) -> dict[str, Any]:
        return steps.monitor(now=dag_run.run_after)

    measure()
    ReapOrphans(task_id="reap_orphans", period=WINDOW)
