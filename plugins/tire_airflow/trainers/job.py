"""One training as its four trainers see it: what is started, with what, under which name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from airflow.sdk import Context
from pydantic import SecretStr

from tire_pipeline.refs import digest_of
from tire_pipeline.settings import Settings

LABELS = ("dag_id", "run_id", "task_id", "map_index")
"""What names a task instance; `tire.<name>` on a container."""


@dataclass(frozen=True)
class TrainerJob:
    """What a trainer is given, wherever it runs. `environment` may be shown to anybody, `secrets` to nobody.

    `name` is a DNS label that the same candidate of the same run always gets; `memory` is Docker's notation (`8g`) or
    empty for no limit; `gpus` is 0 or 1.
    """

    name: str
    image: str
    spec: Mapping[str, Any]
    environment: Mapping[str, str]
    secrets: Mapping[str, SecretStr] = field(repr=False)
    labels: Mapping[str, str]
    gpus: int
    memory: str
    timeout_s: int


def training_job(spec: Mapping[str, Any], context: Context, settings: Settings) -> TrainerJob:
    """The job of one candidate (see `steps.training_specs`) in the task instance of `context`."""
    ti = context["ti"]
    return TrainerJob(
        name=job_name(settings.deployment_id, ti.dag_id, ti.run_id, spec),
        image=settings.trainer_image,
        spec=spec,
        environment={**service_addresses(settings), **run_tags(context)},
        secrets=service_secrets(settings),
        labels={"project": settings.project, "deployment": settings.deployment_id, **labels(ti)},
        gpus=min(settings.trainer_gpus, 1),
        memory=settings.trainer_memory,
        timeout_s=settings.trainer_timeout_s,
    )


def labels(ti: Any) -> dict[str, str]:
    """What names a task instance on the containers that it waits for."""
    return {name: str(getattr(ti, name)) for name in LABELS}


def job_name(deployment: str, dag_id: str, run_id: str, spec: Mapping[str, Any]) -> str:
    """One name for each candidate of a run, so that an engine refuses a second container for it."""
    candidate = "".join(c if c.isalnum() else "-" for c in str(spec["candidate"]).lower())[:24].strip("-")
    return f"tire-train-{candidate}-{digest_of([deployment, dag_id, run_id, spec])[:16]}"


def trainer_arguments(spec: str, result_file: str) -> list[str]:
    """What the trainer is called with; `spec` is a file or the JSON itself."""
    return ["--verbose", "train", "--spec", spec, "--result", result_file, "--json"]


def service_addresses(settings: Settings) -> dict[str, str]:
    """What a trainer needs to find S3 and MLflow, and no more."""
    return {
        "TIRE_PROJECT": settings.project,
        "TIRE_POSITIVE_CLASS": settings.positive_class,
        "TIRE_BUCKET": settings.bucket,
        "TIRE_S3_ENDPOINT_URL": settings.s3_endpoint_url,
        "TIRE_S3_REGION": settings.s3_region,
        "TIRE_MLFLOW_URL": settings.mlflow_url,
        "TIRE_MLFLOW_PUBLIC_URL": settings.mlflow_public_url,
        "TIRE_WEIGHTS": settings.weights,
        "TIRE_ALLOW_NONCOMMERCIAL_WEIGHTS": str(settings.allow_noncommercial_weights).lower(),
    }


def service_secrets(settings: Settings) -> dict[str, SecretStr]:
    """The S3 keys, where there are any: a trainer on AWS has a role instead."""
    secrets = {
        "TIRE_S3_ACCESS_KEY_ID": settings.s3_access_key_id,
        "TIRE_S3_SECRET_ACCESS_KEY": settings.s3_secret_access_key,
    }
    return {name: secret for name, secret in secrets.items() if secret}


def run_tags(context: Context) -> dict[str, str]:
    """The environment variable by which a trainer tags its MLflow run with the task that started it."""
    ti = context["ti"]
    tags = {
        "airflow.dag_id": ti.dag_id,
        "airflow.run_id": ti.run_id,
        "airflow.task_id": ti.task_id,
        "airflow.map_index": str(ti.map_index),
        "airflow.url": ti.log_url,
    }
    return {"TIRE_RUN_TAGS": json.dumps(tags)}


def placement(settings: Settings) -> dict[str, Any]:
    """Where Airflow runs a training task, and for how long at most.

    Where there are GPUs, a slot of the pool `gpu` is one of them, and Celery's queue `gpu` leads to a worker beside
    them. Elsewhere the pool `train` says how many trainings the host takes at once.
    """
    timeout = {"execution_timeout": timedelta(seconds=settings.trainer_timeout_s)}
    return {"pool": "gpu", "queue": "gpu", **timeout} if settings.trainer_gpus else {"pool": "train", **timeout}
