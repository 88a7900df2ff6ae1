"""Trains in a SageMaker training job, which is waited for in the triggerer."""

from __future__ import annotations

import json
from typing import Any

from airflow.providers.amazon.aws.operators.sagemaker import SageMakerTrainingOperator
from airflow.providers.amazon.aws.triggers.sagemaker import SageMakerTrigger
from airflow.sdk import Context

from tire_airflow.links import MlflowRunLink
from tire_airflow.tasks import airflow_errors
from tire_airflow.trainers.job import TrainerJob, placement, training_job
from tire_pipeline import steps
from tire_pipeline.errors import InputError
from tire_pipeline.settings import Settings, load_settings

VALUE_MAX = 2500  # characters of a hyperparameter
DISK_GB = 100
POLL_S = 30


class SageMakerTrainOperator(SageMakerTrainingOperator):
    """Trains in a job whose role may read and write the bucket: its request holds no key.

    A job is named by run, candidate, spec and try, and its result is read from the archive that SageMaker makes of
    SM_OUTPUT_DATA_DIR.
    """

    template_fields = ("spec",)
    operator_extra_links = (MlflowRunLink(),)

    def __init__(self, *, spec: Any, **kwargs: Any) -> None:
        settings = load_settings()
        super().__init__(
            config={},
            deferrable=True,
            print_log=True,
            check_interval=POLL_S,
            max_attempts=settings.trainer_timeout_s // POLL_S + 1,
            check_if_job_exists=False,
            region_name=settings.s3_region,
            **{**placement(settings), **kwargs},
        )
        self.spec = spec

    def execute(self, context: Context) -> Any:
        settings = load_settings()
        job = training_job(self.spec, context, settings)
        with airflow_errors():
            self.config = training_request(job, settings, try_number=context["ti"].try_number)
            self._adopt(job.name)
            super().execute(context)  # defers; a job that ended at once is read here
            return steps.sagemaker_result(self.config["TrainingJobName"])

    def _adopt(self, name: str) -> None:
        """Wait for the job of an earlier try that still trains, instead of starting a second."""
        running = self.hook.list_training_jobs(name_contains=name, StatusEquals="InProgress")
        if not running:
            return
        job_name = running[0]["TrainingJobName"]
        self.log.info("Training job %s of an earlier try still trains; it is kept", job_name)
        self.config["TrainingJobName"] = job_name
        self.defer(
            timeout=self.execution_timeout,
            trigger=SageMakerTrigger(
                job_name=job_name,
                job_type="Training",
                waiter_delay=self.check_interval,
                waiter_max_attempts=self.max_attempts,
                aws_conn_id=self.aws_conn_id,
                region_name=self.region_name,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        with airflow_errors():
            described = super().execute_complete(context, event)
            return steps.sagemaker_result(described["Training"]["TrainingJobName"])

    def on_kill(self) -> None:
        """Stop the job; SageMaker gives the trainer two minutes."""
        if name := self.config.get("TrainingJobName"):
            self.hook.conn.stop_training_job(TrainingJobName=name)


def training_request(job: TrainerJob, settings: Settings, *, try_number: int) -> dict[str, Any]:
    """What CreateTrainingJob is asked. Pure; InputError where a setting is missing or AWS is not what is used."""
    if not settings.sagemaker_role_arn:
        raise InputError(
            "TIRE_SAGEMAKER_ROLE_ARN is not set: a role that may read and write the bucket, for the training job."
        )
    if settings.s3_endpoint_url:
        raise InputError("TIRE_S3_ENDPOINT_URL is set, but SageMaker trains from AWS' own S3 alone: leave it empty.")
    environment = {name: value for name, value in job.environment.items() if value and name != "TIRE_RUN_TAGS"}
    return {
        "TrainingJobName": f"{job.name}-{try_number}",
        "RoleArn": settings.sagemaker_role_arn,
        "AlgorithmSpecification": {"TrainingImage": job.image, "TrainingInputMode": "File"},
        "HyperParameters": {
            **_in_pieces("spec", json.dumps(job.spec)),
            **_in_pieces("tags", job.environment["TIRE_RUN_TAGS"]),
        },
        "Environment": environment,
        "OutputDataConfig": {"S3OutputPath": f"s3://{settings.bucket}/{steps.SAGEMAKER_OUTPUT}"},
        "ResourceConfig": {
            "InstanceType": settings.sagemaker_instance_type,
            "InstanceCount": 1,
            "VolumeSizeInGB": DISK_GB,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": job.timeout_s},
        "Tags": [{"Key": f"tire.{name}", "Value": job.labels[name]} for name in ("project", "run_id")],
        **_network(settings),
    }


def _in_pieces(name: str, text: str) -> dict[str, str]:
    """A document as hyperparameters `name_0`, `name_1`, …: one value may not be long."""
    return {f"{name}_{i}": text[i * VALUE_MAX : (i + 1) * VALUE_MAX] for i in range((len(text) - 1) // VALUE_MAX + 1)}


def _network(settings: Settings) -> dict[str, Any]:
    if not settings.sagemaker_subnets:
        return {}
    subnets, groups = settings.sagemaker_subnets.split(","), settings.sagemaker_security_groups.split(",")
    return {"VpcConfig": {"Subnets": subnets, "SecurityGroupIds": groups}}
