"""Trains in a pod, which is waited for in the triggerer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.xcom_sidecar import PodDefaults
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import models as k8s

from tire_airflow.links import MlflowRunLink
from tire_airflow.trainers.job import TrainerJob, placement, trainer_arguments, training_job
from tire_airflow.trainers.outcome import raise_for
from tire_pipeline.settings import Settings, load_settings

RESULT = f"{PodDefaults.XCOM_MOUNT_PATH}/return.json"  # where the stock operator's sidecar fetches it from
USER = 10001  # of the trainer image
PULL_S = 1800  # the image is 7 GB
LOGS_EVERY_S = 60


class KubernetesTrainOperator(KubernetesPodOperator):
    """Trains in a pod. Its S3 keys come from a Secret of the cluster by name: no request of Airflow's holds them.

    The stock operator finds the pod of an interrupted try by its labels and goes on with it.
    """

    template_fields = ("spec",)
    operator_extra_links = (MlflowRunLink(),)

    def __init__(self, *, spec: Any, **kwargs: Any) -> None:
        super().__init__(
            deferrable=True,
            do_xcom_push=True,
            logging_interval=LOGS_EVERY_S,
            startup_timeout_seconds=PULL_S,
            termination_message_policy="FallbackToLogsOnError",
            on_finish_action="delete_pod",
            log_pod_spec_on_failure=False,
            **{**placement(load_settings()), **kwargs},
        )
        self.spec = spec

    def execute(self, context: Context) -> Any:
        settings = load_settings()
        for name, value in pod_options(training_job(self.spec, context, settings), settings).items():
            setattr(self, name, value)
        return super().execute(context)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        """The result; a trainer that failed is judged by its exit code, as everywhere."""
        try:
            return super().trigger_reentry(context, event)
        except AirflowException:
            code, message = exit_of(self.remote_pod or self.pod, self.base_container_name)
            if code:
                raise_for(code, message.splitlines())
            raise


def pod_options(job: TrainerJob, settings: Settings) -> dict[str, Any]:
    """The attributes of a KubernetesPodOperator that make its pod the job's. Pure."""
    return {
        "name": job.name,
        "namespace": settings.kubernetes_namespace or None,
        "image": job.image,
        "arguments": trainer_arguments(json.dumps(job.spec), RESULT),
        "env_vars": dict(job.environment),
        "env_from": _secret(settings.kubernetes_secret),
        "labels": {f"tire.{name}": job.labels[name] for name in ("project", "deployment")},
        "container_resources": _resources(job),
        "automount_service_account_token": False,
        "active_deadline_seconds": job.timeout_s,
        "termination_grace_period": 30,
        "security_context": k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=USER,
            fs_group=USER,
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        "container_security_context": k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        **_folders({"work": "/work", "tmp": "/tmp", "shm": "/dev/shm"}),  # noqa: S108  (inside the pod)
    }


def exit_of(pod: k8s.V1Pod | None, container: str) -> tuple[int, str]:
    """Exit code and last words of the pod's container; (0, "") where it has not ended."""
    statuses = (pod.status.container_statuses or []) if pod and pod.status else []
    ended = [s.state.terminated for s in statuses if s.name == container and s.state and s.state.terminated]
    return (ended[0].exit_code, ended[0].message or "") if ended else (0, "")


def _secret(name: str) -> list[k8s.V1EnvFromSource]:
    return [k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=name))] if name else []


def _resources(job: TrainerJob) -> k8s.V1ResourceRequirements:
    """Docker's 8g is Kubernetes' 8Gi."""
    memory = {"memory": f"{job.memory[:-1]}{job.memory[-1].upper()}i"} if job.memory else {}
    limits = {**memory, **({"nvidia.com/gpu": str(job.gpus)} if job.gpus else {})}
    return k8s.V1ResourceRequirements(limits=limits, requests=memory)


def _folders(mounts: Mapping[str, str]) -> dict[str, Any]:
    """Empty folders that may be written to, the one at /dev/shm in memory."""
    volumes = [
        k8s.V1Volume(name=name, empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory" if name == "shm" else None))
        for name in mounts
    ]
    return {
        "volumes": volumes,
        "volume_mounts": [k8s.V1VolumeMount(name=name, mount_path=path) for name, path in mounts.items()],
    }
