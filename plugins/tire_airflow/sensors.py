"""The sensor that sees a complete dataset version which no run has taken yet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
from airflow.sdk import Context

from tire_airflow.tasks import airflow_errors
from tire_airflow.triggers import NewVersionTrigger, run_id_of
from tire_pipeline import steps


class NewVersionSensor(S3KeySensor):
    """An S3KeySensor for the markers `datasets/<version>/{_MANIFEST.json,_READY}`.

    The stock sensor's wildcard cannot find them in deferrable mode, and would list every image. This one lists the
    versions by delimiter, asks for their markers, and leaves out those that have a run of `pipeline` already: the runs
    themselves are the memory, so nothing is lost or done twice whatever is killed. Returns one dict of arguments for a
    TriggerDagRunOperator for each new version, oldest name first.
    """

    def __init__(self, *, pipeline: str, **kwargs: Any) -> None:
        kwargs.setdefault("bucket_key", "datasets/*/_*")
        super().__init__(wildcard_match=True, deferrable=True, **kwargs)
        self.pipeline = pipeline

    def execute(self, context: Context) -> list[dict[str, Any]]:
        with airflow_errors():
            complete = complete_versions()
        if fresh := self._without_run(complete, context):
            return _trigger_arguments(fresh)
        self.defer(
            timeout=timedelta(seconds=self.timeout),
            trigger=NewVersionTrigger(known=complete, poke_interval=self.poke_interval),
            method_name="execute_complete",
        )
        return []  # defer raises; this is for readers and type checkers

    def execute_complete(self, context: Context, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Answer with what the trigger saw, unless a run took it in the meantime."""
        return _trigger_arguments(self._without_run([tuple(pair) for pair in event["versions"]], context))

    def _without_run(self, versions: Sequence[tuple[str, str]], context: Context) -> list[tuple[str, str]]:
        count = context["ti"].get_dr_count
        ids = [run_id_of(*pair) for pair in versions]
        if not ids or count(dag_id=self.pipeline, run_ids=ids) == len(ids):
            return []
        return [v for v, run_id in zip(versions, ids, strict=True) if not count(dag_id=self.pipeline, run_ids=[run_id])]


def complete_versions() -> list[tuple[str, str]]:
    """(version, marker) of every complete version in the bucket."""
    return [(v["version"], v["marker"]) for v in steps.list_versions() if v["complete"]]


def _trigger_arguments(versions: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"trigger_run_id": run_id_of(version, marker), "conf": {"dataset_version": version}}
        for version, marker in versions
    ]
