"""Training tasks: the same trainer, where TIRE_TRAINER says.

The contract: a job (see `job`) goes in as arguments and environment, the bundle goes to S3, and a result comes back.

process      a child of the task                    docker       a container on an engine
kubernetes   a pod, waited for in the triggerer     sagemaker    a training job, waited for in the triggerer
"""

from __future__ import annotations

from importlib import import_module

from airflow.sdk import BaseOperator

from tire_pipeline.settings import load_settings

OPERATORS = {
    "process": "ProcessTrainOperator",
    "docker": "DockerTrainOperator",
    "kubernetes": "KubernetesTrainOperator",
    "sagemaker": "SageMakerTrainOperator",
}


def train_operator() -> type[BaseOperator]:
    """The operator class that the settings ask for; the libraries of the others are not loaded."""
    trainer = load_settings().trainer
    operator: type[BaseOperator] = getattr(
        import_module(f"tire_airflow.trainers.{trainer}_trainer"), OPERATORS[trainer]
    )
    return operator
