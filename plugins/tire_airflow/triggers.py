"""What the triggerer runs while the sensor sleeps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from tire_pipeline import steps
from tire_pipeline.errors import ServiceUnavailable

log = logging.getLogger(__name__)


def run_id_of(version: str, marker: str) -> str:
    """The one run a version's marker can have."""
    return f"dataset__{version}__{marker}"


class NewVersionTrigger(BaseTrigger):
    """Fires when a complete version is there whose (version, marker) is not among the known.

    An S3 that does not answer is waited for: a watcher that fails is a watcher nobody restarts.
    """

    def __init__(self, *, known: Sequence[tuple[str, str]], poke_interval: float) -> None:
        super().__init__()
        self.known, self.poke_interval = known, poke_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        known = [list(pair) for pair in self.known]
        return "tire_airflow.triggers.NewVersionTrigger", {"known": known, "poke_interval": self.poke_interval}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        known = {tuple(pair) for pair in self.known}
        while True:
            try:
                found = await asyncio.to_thread(steps.list_versions)
            except ServiceUnavailable as error:
                log.warning("%s Looking again in %.0f s.", error, self.poke_interval)
                found = []
            fresh = [(v["version"], v["marker"]) for v in found if v["complete"]]
            fresh = [pair for pair in fresh if pair not in known]
            if fresh:
                yield TriggerEvent({"versions": [list(pair) for pair in fresh]})
                return
            await asyncio.sleep(self.poke_interval)
