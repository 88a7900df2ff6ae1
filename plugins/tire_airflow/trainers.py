"""Training tasks: the same trainer command as a process or in a container, by TIRE_TRAINER.

The contract: the spec (see `steps.training_specs`) goes in as JSON, the bundle goes to S3, and a result comes back.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from tire_airflow.links import MlflowRunLink
from tire_airflow.tasks import keep_reason
from tire_pipeline.errors import InputError, OutOfResources, ServiceUnavailable
from tire_pipeline.settings import Settings, load_settings

RETRYABLE = (ServiceUnavailable.exit_code, OutOfResources.exit_code)
PR_SET_PDEATHSIG = 1
STOP_S = 5.0


def train_operator() -> type[BaseOperator]:
    """The operator class that the settings ask for."""
    trainer = load_settings().trainer
    if trainer not in OPERATORS:
        raise InputError(f"TIRE_TRAINER is {trainer!r}; this version trains in: {', '.join(OPERATORS)}.")
    return OPERATORS[trainer]


def trainer_arguments(spec: str, result_file: str) -> list[str]:
    """What the trainer is called with, wherever it runs; `spec` is a file or the JSON itself."""
    return ["--verbose", "train", "--spec", spec, "--result", result_file, "--json"]


class ProcessTrainOperator(BaseOperator):
    """Trains in a process of its own on the worker; it dies with the task, however the task dies."""

    template_fields = ("spec",)
    operator_extra_links = (MlflowRunLink(),)

    def __init__(self, *, spec: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="tire-task-") as tmp:
            spec_file, result_file = Path(tmp) / "spec.json", Path(tmp) / "result.json"
            spec_file.write_text(json.dumps(self.spec))
            arguments = trainer_arguments(str(spec_file), str(result_file))
            self._run([sys.executable, "-m", "tire_pipeline", *arguments], {**os.environ, **run_tags(context)})
            result: dict[str, Any] = json.loads(result_file.read_text())
        return result

    def _run(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=functools.partial(_die_with, os.getpid()),
        )
        lines: list[str] = []
        try:
            with self._process.stderr as stderr:  # type: ignore[union-attr]  # it was asked for above
                for line in stderr:
                    self.log.info("%s", line.rstrip())
                    lines = [*lines[-19:], line.rstrip()]
            code = self._process.wait()
        finally:
            self.on_kill()
        if code:
            raise_for(code, lines)

    def on_kill(self) -> None:
        """Stop the trainer and everything it started."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class DockerTrainOperator(DockerOperator):
    """Trains in the trainer image. Secrets are filled in when the task runs, so no serialised DAG holds them."""

    template_fields = ("spec",)
    operator_extra_links = (MlflowRunLink(),)
    pickling_library = json  # the stock operator unpickles what a container wrote

    def __init__(self, *, spec: Any, **kwargs: Any) -> None:
        super().__init__(
            image="filled in when the task runs",
            command="filled in when the task runs",
            auto_remove="force",
            retrieve_output=True,
            retrieve_output_path="/tmp/result.json",  # noqa: S108  (inside the container)
            mount_tmp_dir=False,
            **kwargs,
        )
        self.spec = spec

    def execute(self, context: Context) -> dict[str, Any]:
        settings = load_settings()
        self.image, self.network_mode = settings.trainer_image, settings.trainer_network
        self.command = trainer_arguments(json.dumps(self.spec), self.retrieve_output_path)
        self._private_environment = {**container_environment(settings), **run_tags(context)}
        if settings.trainer_gpus:
            self.device_requests = [_gpus(settings.trainer_gpus)]
        result: dict[str, Any] = super().execute(context)
        return result


OPERATORS: dict[str, type[BaseOperator]] = {"process": ProcessTrainOperator, "docker": DockerTrainOperator}


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


def container_environment(settings: Settings) -> dict[str, str]:
    """What a trainer container needs to reach S3 and MLflow, and no more."""
    secrets = {
        "TIRE_S3_ACCESS_KEY_ID": settings.s3_access_key_id,
        "TIRE_S3_SECRET_ACCESS_KEY": settings.s3_secret_access_key,
    }
    return {
        "TIRE_PROJECT": settings.project,
        "TIRE_POSITIVE_CLASS": settings.positive_class,
        "TIRE_BUCKET": settings.bucket,
        "TIRE_S3_ENDPOINT_URL": settings.s3_endpoint_url,
        "TIRE_S3_REGION": settings.s3_region,
        "TIRE_MLFLOW_URL": settings.mlflow_url,
        **{name: secret.get_secret_value() for name, secret in secrets.items() if secret},
    }


def raise_for(code: int, lines: list[str]) -> None:
    """The trainer's exit code as Airflow's exception: only what may pass by itself is retried."""
    reason = next((line.removeprefix("error ") for line in reversed(lines) if line.startswith("error ")), "")
    reason = reason or f"the trainer ended with code {code}: {lines[-1] if lines else 'it said nothing'}"
    keep_reason(reason)
    raise (AirflowException if code in RETRYABLE or code < 0 else AirflowFailException)(reason)


def _gpus(count: int) -> Any:
    from docker.types import DeviceRequest

    return DeviceRequest(count=count, capabilities=[["gpu"]])


def _die_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent ends; a parent that ended before the asking counts too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
