"""From a running supervisord to a healthy stack: storage, then each schema and at once the parts that wait for it."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import httpx

from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.settings import load_settings
from tire_pipeline.stack import migrations
from tire_pipeline.stack.airflow_env import TRAININGS_AT_ONCE
from tire_pipeline.stack.config import AIRFLOW_USER, BUCKET, REGION
from tire_pipeline.stack.health import unhealthy
from tire_pipeline.stack.postgres import ensure_databases
from tire_pipeline.stack.records import AIRFLOW_PARTS, STORAGE_PARTS
from tire_pipeline.stack.supervision import log_tail, programs, start_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tire_pipeline.stack.config import Config
    from tire_pipeline.stack.records import Part

POLL_S = 0.2


@dataclass(frozen=True)
class Startup:
    """One `up` under way. `deadline` is a time of `time.monotonic()`."""

    config: Config
    say: Callable[[str], None]
    migrate_ledger: Callable[[str], object] | None
    deadline: float
    abandoned: Event = field(default_factory=Event)
    stamp_lock: Lock = field(default_factory=Lock)

    def storage(self, parts: dict[str, Part]) -> None:
        """PostgreSQL with its databases, and S3. Safe to repeat."""
        self._start([name for name in STORAGE_PARTS if name in parts])
        if "postgres" in parts:
            ensure_databases(self.config)

    def services(self, parts: dict[str, Part]) -> None:
        """All that needs storage, each part as soon as its schema is current. Safe to repeat from any state."""
        branches = [self._airflow, self._mlflow, self._serving, self._bucket]
        with ThreadPoolExecutor(len(branches)) as pool:
            done, _ = wait([pool.submit(branch, parts) for branch in branches], return_when=FIRST_EXCEPTION)
            self.abandoned.set()  # the first failure ends the other branches' waiting
        for branch in done:
            branch.result()

    def _airflow(self, parts: dict[str, Part]) -> None:
        names = [name for name in AIRFLOW_PARTS if name in parts]
        if not names:
            return
        self._migrate("airflow", parts)
        self._start(names)
        if "airflow-api-server" in names:
            ensure_pools(self.config)

    def _mlflow(self, parts: dict[str, Part]) -> None:
        if "mlflow" in parts:
            self._migrate("mlflow", parts)
            self._start(["mlflow"])

    def _serving(self, parts: dict[str, Part]) -> None:
        self._migrate("ledger", parts)
        self._start([name for name in ("serving",) if name in parts])

    def _bucket(self, parts: dict[str, Part]) -> None:
        if "s3" in parts:
            ensure_bucket(self.config)

    def _migrate(self, schema: str, parts: dict[str, Part]) -> None:
        wanted, stamp = migrations.wanted_versions()[schema], migrations.Stamp(self.config, self.stamp_lock)
        if "postgres" not in parts or stamp.read().get(schema) == wanted:
            return
        began = time.monotonic()
        migrations.migrate(schema, self.config, parts, migrate_ledger=self.migrate_ledger)
        stamp.set(schema, wanted)
        self.say(f"schema of {schema} is current ({time.monotonic() - began:.1f} s)")

    def _start(self, names: list[str]) -> None:
        began, waiting = time.monotonic(), list(names)
        start_parts(self.config.home, waiting)
        while waiting and not self.abandoned.is_set():
            reasons = unhealthy(self.config, waiting)
            for name in [name for name in waiting if name not in reasons]:
                self.say(f"{name} is up ({time.monotonic() - began:.1f} s)")
                waiting.remove(name)
            if waiting:
                self._give_up_on(waiting[0], reasons[waiting[0]])
                time.sleep(POLL_S)

    def _give_up_on(self, name: str, reason: str) -> None:
        """Raises ServiceUnavailable once the supervisor has, or the deadline passed."""
        failed = programs(self.config.home).get(name, {"statename": "FATAL"})["statename"] == "FATAL"
        if failed or time.monotonic() > self.deadline:
            raise ServiceUnavailable(
                f"{name} did not come up: {reason}. The end of {self.config.home}/logs/{name}.log:\n"
                f"{log_tail(self.config.home, name)}\n"
                "`tire up` tries again, `tire down` stops the rest."
            )


def ensure_bucket(config: Config) -> None:
    """The stack's bucket. Safe to repeat. Raises ServiceUnavailable."""
    import boto3  # noqa: PLC0415 - half a second that a healthy stack need not pay
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    client = boto3.client(
        "s3",
        endpoint_url=config.url("s3"),
        region_name=REGION,
        aws_access_key_id=config.secrets.s3_access_key_id,
        aws_secret_access_key=config.secrets.s3_secret_access_key,
    )
    try:
        with suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=BUCKET)
    except (BotoCoreError, ClientError) as error:
        raise ServiceUnavailable(f"The bucket {BUCKET} could not be made on {config.url('s3')}: {error}.") from error


def pools(num_gpus: int) -> list[dict[str, Any]]:
    """Where trainings wait their turn. On a host with GPUs a slot is one of them."""
    described = {"include_deferred": False, "description": "Trainings at one time on this machine"}
    return [
        {"name": "train", "slots": TRAININGS_AT_ONCE, **described},
        {"name": "gpu", "slots": max(1, num_gpus), **described},
    ]


def ensure_pools(config: Config) -> None:
    """Airflow's pools; one that exists keeps the slots somebody gave it. Raises ServiceUnavailable."""
    try:
        with httpx.Client(base_url=config.url("airflow"), timeout=30, trust_env=False) as client:
            login = {"username": AIRFLOW_USER, "password": config.secrets.airflow_password}
            token = client.post("/auth/token", json=login).raise_for_status().json()["access_token"]
            for pool in pools(load_settings().trainer_gpus):
                answer = client.post("/api/v2/pools", json=pool, headers={"Authorization": f"Bearer {token}"})
                if answer.status_code != httpx.codes.CONFLICT:
                    answer.raise_for_status()
    except httpx.HTTPError as error:
        raise ServiceUnavailable(f"Airflow's pools could not be made: {error}.") from error
