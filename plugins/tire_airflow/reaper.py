"""The task that ends trainings nobody waits for, as long as Airflow runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowSkipException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from tire_pipeline import steps
from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.settings import load_settings

log = logging.getLogger(__name__)
EVERY_S = 10.0
GRACE = timedelta(minutes=1)


class ReapOrphans(BaseOperator):
    """Calls `steps.reap` every ten seconds until `period` after the run was due, in the triggerer: no worker waits.

    Skipped where trainings do not run on a Docker engine: pods and SageMaker's jobs have an end of their own.
    """

    def __init__(self, *, period: timedelta, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.period = period

    def execute(self, context: Context) -> None:
        if (trainer := load_settings().trainer) != "docker":
            raise AirflowSkipException(f"TIRE_TRAINER is {trainer}: there are no trainer containers.")
        until = context["dag_run"].run_after + self.period
        left = max(timedelta(0), until - datetime.now(UTC))
        self.defer(
            trigger=ReapTrigger(until=until.isoformat(), every_s=EVERY_S),
            method_name="execute_complete",
            timeout=left + GRACE,  # a triggerer that is gone must not keep the DAG's next run waiting
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> list[dict[str, str]]:
        """What was removed, and why."""
        removed: list[dict[str, str]] = event["removed"]
        for container in removed:
            self.log.warning("Removed %s: %s", container["container"], container["reason"])
        return removed


class ReapTrigger(BaseTrigger):
    """Fires at `until` (ISO 8601, with its zone) with what was removed by then; an absent service is waited for."""

    def __init__(self, *, until: str, every_s: float) -> None:
        super().__init__()
        self.until, self.every_s = until, every_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "tire_airflow.reaper.ReapTrigger", {"until": self.until, "every_s": self.every_s}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        removed: list[dict[str, str]] = []
        while True:
            try:
                removed += await asyncio.to_thread(steps.reap)
            except ServiceUnavailable as error:
                log.warning("%s Looking again in %.0f s.", error, self.every_s)
            if datetime.now(UTC) >= datetime.fromisoformat(self.until):
                yield TriggerEvent({"removed": removed})
                return
            await asyncio.sleep(self.every_s)
