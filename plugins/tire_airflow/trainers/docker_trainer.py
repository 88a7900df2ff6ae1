"""Trains in a container on a Docker engine."""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from functools import cached_property
from typing import Any

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException
from filelock import FileLock

from tire_airflow.links import MlflowRunLink
from tire_airflow.tasks import airflow_errors
from tire_airflow.trainers.job import LABELS, TrainerJob, placement, trainer_arguments, training_job
from tire_airflow.trainers.outcome import Relay, raise_for, whole_lines
from tire_pipeline import steps
from tire_pipeline.errors import OutOfResources, ServiceUnavailable
from tire_pipeline.settings import load_settings

WORK_FOLDER = "/work"  # in the trainer image: a volume of the container, where the result can be fetched from
CACHE_VOLUME = "tire-trainer-cache"  # decoded images, for all trainings on the host
STOP_S = 3  # Airflow kills a task that takes over 5 s to stop
TAIL = 100  # lines of an adopted container that are shown again: the last of them may hold the reason of a failure


class DockerTrainOperator(DockerOperator):
    """Trains in the trainer image. Secrets are filled in when the task runs, so no serialised DAG holds them.

    A container is named by run, candidate and spec: a retry follows the one that still trains instead of starting a
    second, and takes the result of one that ended while nobody watched. One whose task has ended is removed by
    `steps.reap`.
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
            **{**placement(load_settings()), **kwargs},
        )
        self.spec = spec
        self.job: TrainerJob  # known once the task runs
        self._try_number = 0

    def execute(self, context: Context) -> dict[str, Any]:
        settings = load_settings()
        self.job, self._try_number = training_job(self.spec, context, settings), context["ti"].try_number
        self.image, self.network_mode = settings.trainer_image, settings.trainer_network
        with airflow_errors():
            result: dict[str, Any] = super().execute(context)
        return result

    @cached_property
    def containers(self) -> Any:
        from tire_pipeline.stores.containers import Containers

        return Containers(self.cli, deployment=self.job.labels["deployment"])

    def _run_image(self) -> Any:
        """Called by the stock operator once the image is there."""
        self.container, tail = self._adopted(), TAIL
        if self.container is None:
            self.container, tail = self._started(), "all"
        code, relay = self._followed(tail)
        if code:
            self.containers.remove(self.container["Id"])
            raise_for(code, relay.last)
        result = self._attempt_to_retrieve_result()
        if result is None:
            raise AirflowException(
                f"Container {self.job.name} ended well, but its {self.retrieve_output_path} is empty."
            )
        self.containers.remove(self.container["Id"])
        return result

    def _followed(self, tail: int | str) -> tuple[int, Relay]:
        """The exit code, and the last lines that the container said."""
        from docker.errors import NotFound

        container_id, relay = self.container["Id"], Relay(self.log)
        try:
            for line in whole_lines(self.cli.logs(container_id, stream=True, follow=True, tail=tail)):
                relay(line)
            relay.close()
            code: int = self.cli.wait(container_id)["StatusCode"]
            killed_for_memory = self.cli.inspect_container(container_id)["State"]["OOMKilled"]
        except NotFound:
            raise AirflowException(f"Container {self.job.name} was removed while it trained.") from None
        if code and killed_for_memory:
            relay.last.append(
                f"error The trainer was killed for memory (limit: {self.job.memory or 'the host'}). Use a smaller "
                "batch or image, or raise TIRE_TRAINER_MEMORY."
            )
            code = OutOfResources.exit_code
        return code, relay

    def _adopted(self) -> Any:
        """The container of an earlier try that still trains or has finished; any other of this task is removed."""
        adopted = None
        for found in self.containers.all(**{name: self.job.labels[name] for name in LABELS}):
            state = self.cli.inspect_container(found.id)["State"]
            whole = state["Running"] or (state["Status"] == "exited" and state["ExitCode"] == 0)
            if whole and found.name == self.job.name:
                self.log.info("Container %s of an earlier try is %s; it is kept", found.name, state["Status"])
                adopted = {"Id": found.id}
            else:
                said = self.cli.logs(found.id, tail=1).decode(errors="replace").strip()
                self.log.info("Removing %s of an earlier try (code %d): %s", found.name, state["ExitCode"], said)
                self.containers.remove(found.id)
        return adopted

    def _started(self) -> Any:
        settings = load_settings()
        with _gpu_lock(settings) if self.job.gpus else nullcontext():
            gpu = self._free_gpu(settings.trainer_gpus) if self.job.gpus else None
            container = self._created(gpu)
            self.cli.start(container["Id"])
        self.log.info("Container %s trains in %s%s", self.job.name, self.image, f" on GPU {gpu}" if gpu else "")
        return container

    def _free_gpu(self, count: int) -> str:
        taken = self.containers.gpus_in_use()
        free = [str(i) for i in range(count) if str(i) not in taken]
        if not free:
            raise AirflowException(
                f"All {count} GPUs of the host train already. Airflow's pool `gpu` must have {count} slots or fewer."
            )
        return free[0]

    def _created(self, gpu: str | None) -> Any:
        from docker.types import DeviceRequest, LogConfig

        from tire_pipeline.stores.containers import labelled

        job = self.job
        secrets = {name: secret.get_secret_value() for name, secret in job.secrets.items()}
        return self.cli.create_container(
            image=self.image,
            command=trainer_arguments(json.dumps(job.spec), self.retrieve_output_path),
            name=job.name,
            environment={**job.environment, **secrets},
            labels=labelled({**job.labels, **({"gpu": gpu} if gpu else {})}),
            volumes=[WORK_FOLDER],
            host_config=self.cli.create_host_config(
                network_mode=self.network_mode,
                device_requests=[DeviceRequest(device_ids=[gpu], capabilities=[["gpu"]])] if gpu else None,
                binds={CACHE_VOLUME: {"bind": f"{WORK_FOLDER}/.tire/cache", "mode": "rw"}},
                log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": "50m", "max-file": "2"}),
                mem_limit=job.memory or None,
                memswap_limit=job.memory or None,
                init=True,
                read_only=True,
                tmpfs={"/tmp": "mode=1777"},  # noqa: S108  (inside the container)
                shm_size="1g",
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                pids_limit=1024,
            ),
        )

    def on_kill(self) -> None:
        """Ask the trainer to stop, kill it after STOP_S, and remove its container, unless another try follows it."""
        if self.container is None or self._is_followed_by_another():
            return
        from docker.errors import APIError

        with suppress(APIError):  # it ended by itself
            self.cli.stop(self.container["Id"], timeout=STOP_S)
        self.containers.remove(self.container["Id"])

    def _is_followed_by_another(self) -> bool:
        """Whether a newer try has the container, or may get it: an absent Airflow ends the task, not the training."""
        try:
            newest = steps.newest_try(*(self.job.labels[name] for name in LABELS))
        except ServiceUnavailable:
            self.log.warning("Airflow does not answer; container %s is left to the next try", self.job.name)
            return True
        return newest > self._try_number


def _gpu_lock(settings: Any) -> Any:
    """Held while a GPU is chosen and its container started: the label of a started container is what marks it taken."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return FileLock(settings.home / "gpu.lock")
