"""Training tasks: the same trainer command as a process or in a container, by TIRE_TRAINER.

The contract: the spec (see `steps.training_specs`) goes in as JSON, the bundle goes to S3, and a result comes back.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
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
WORK_FOLDER = "/work"  # in the trainer image: a volume of the container, where the result can be fetched from


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
    """Trains in the trainer image. Secrets are filled in when the task runs, so no serialised DAG holds them.

    A container is named by run, candidate and spec: a retry follows the one that still trains instead of starting a
    second, and takes the result of one that ended while nobody watched.
    """

    template_fields = ("spec",)
    operator_extra_links = (MlflowRunLink(),)
    pickling_library = json  # the stock operator unpickles what a container wrote

    def __init__(self, *, spec: Any, **kwargs: Any) -> None:
        super().__init__(
            image="filled in when the task runs",
            command="filled in when the task runs",
            retrieve_output_path=f"{WORK_FOLDER}/result.json",
            mount_tmp_dir=False,
            **kwargs,
        )
        self.spec = spec

    def execute(self, context: Context) -> dict[str, Any]:
        settings, ti = load_settings(), context["ti"]
        self.image, self.network_mode = settings.trainer_image, settings.trainer_network
        self.command = trainer_arguments(json.dumps(self.spec), self.retrieve_output_path)
        self._private_environment = {**container_environment(settings), **run_tags(context)}
        self.container_name = container_name(ti.dag_id, ti.run_id, self.spec)
        self.labels = {"tire.project": settings.project, "tire.dag": ti.dag_id, "tire.run": ti.run_id}
        if settings.trainer_gpus:
            self.device_requests = [_gpus(settings.trainer_gpus)]
        result: dict[str, Any] = super().execute(context)
        return result

    def _run_image(self) -> Any:
        """Called by the stock operator once the image is there."""
        self.container = self._existing() or self._started()
        lines: collections.deque[str] = collections.deque(maxlen=20)
        for line in _lines(self.cli.logs(self.container["Id"], stream=True, follow=True)):
            self.log.info("%s", line)
            lines.append(line)
        code = self.cli.wait(self.container["Id"])["StatusCode"]
        result = None if code else self._attempt_to_retrieve_result()
        self._remove()
        if code:
            raise_for(code, list(lines))
        return result

    def _existing(self) -> Any:
        """The container of an earlier try that still trains or has finished; one that failed is removed."""
        for found in self.cli.containers(all=True, filters={"name": f"^/{self.container_name}$"}):
            state = self.cli.inspect_container(found["Id"])["State"]
            if state["Running"] or (state["Status"] == "exited" and state["ExitCode"] == 0):
                self.log.info("Container %s of an earlier try is %s; it is kept", self.container_name, state["Status"])
                return found
            self.cli.remove_container(found["Id"], v=True, force=True)
        return None

    def _started(self) -> Any:
        container = self.cli.create_container(
            image=self.image,
            command=self.command,
            name=self.container_name,
            environment=self._private_environment,
            labels=self.labels,
            volumes=[WORK_FOLDER],
            host_config=self.cli.create_host_config(
                network_mode=self.network_mode,
                device_requests=self.device_requests,
                init=True,
                read_only=True,
                tmpfs={"/tmp": "mode=1777"},  # noqa: S108  (inside the container)
                shm_size="1g",
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                pids_limit=1024,
            ),
        )
        self.cli.start(container["Id"])
        self.log.info("Container %s trains in %s", self.container_name, self.image)
        return container

    def _remove(self) -> None:
        self.cli.remove_container(self.container["Id"], v=True, force=True)

    def on_kill(self) -> None:
        """Ask the trainer to stop, kill it after some seconds, and remove its container."""
        if self.container is not None:
            self.cli.stop(self.container["Id"], timeout=int(STOP_S))
            self._remove()


OPERATORS: dict[str, type[BaseOperator]] = {"process": ProcessTrainOperator, "docker": DockerTrainOperator}


def container_name(dag_id: str, run_id: str, spec: Mapping[str, Any]) -> str:
    """One name for each candidate of a run, so that the engine itself refuses a second container for it."""
    digest = hashlib.sha256(json.dumps([dag_id, run_id, spec], sort_keys=True).encode()).hexdigest()
    return f"tire-train-{spec['candidate']}-{digest[:16]}"


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


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Whole lines of a stream of bytes that is cut anywhere; no more than one line is held."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace").rstrip() for line in whole)
    if rest:
        yield rest.decode(errors="replace").rstrip()


def _gpus(count: int) -> Any:
    from docker.types import DeviceRequest

    return DeviceRequest(count=count, capabilities=[["gpu"]])


def _die_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent ends; a parent that ended before the asking counts too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
