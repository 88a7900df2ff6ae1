"""### dataset_watch
Waits for a complete dataset version in S3 and starts `train_and_promote` for it, exactly once.

**Complete** means: `datasets/<version>/_MANIFEST.json` is there (written last by `tire dataset push`), or an empty
`datasets/<version>/_READY` put there by hand. A version with neither is never touched.

**Once** means: the run's id is made of version and marker. Whatever is killed, the same marker finds its run and is
left alone; a new marker (changed content, or `_READY` put again) is a new run.

**When a version is not picked up**: is its marker there (`tire dataset list`)? Does this DAG's `wait_for_version` wait
(deferred)? Does the triggerer run (`tire status`)? To run a version again, clear its run or trigger
`train_and_promote` by hand.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG
from tire_airflow.sensors import NewVersionSensor

# Without one, @continuous gives its second run the logical date of its first, finds it taken, and never runs again.
START = datetime(2026, 1, 1, tzinfo=UTC)

with DAG(
    dag_id="dataset_watch",
    schedule="@continuous",
    start_date=START,
    max_active_runs=1,
    catchup=False,
    doc_md=__doc__,
    tags=["tire", "data"],
):
    wait_for_version = NewVersionSensor(
        task_id="wait_for_version",
        pipeline="train_and_promote",
        poke_interval=3,
        timeout=timedelta(days=7).total_seconds(),
        retries=1000,
        retry_delay=timedelta(seconds=15),
    )
    TriggerDagRunOperator.partial(
        task_id="start_pipeline",
        trigger_dag_id="train_and_promote",
        logical_date=None,
        skip_when_already_exists=True,
        retries=5,
        retry_delay=timedelta(seconds=5),
    ).expand_kwargs(wait_for_version.output)
