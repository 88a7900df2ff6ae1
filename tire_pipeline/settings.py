"""Where we run: read once at the edge from `TIRE_*`, then from the file that `tire up` keeps in `TIRE_HOME`."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tire_pipeline.errors import InputError

STACK_ENV = "stack.env"


class Settings(BaseSettings):
    """Addresses, names and secrets of one deployment. No secret has a default.

    Empty `s3_endpoint_url` means AWS, and empty S3 keys mean the usual AWS credential chain. The server scores the
    model of `shadow_alias` (`off`: none) on what the champion answers, and lets it answer the share `canary_weight`.
    `api_keys` are the sha256 of the keys that it accepts, with commas between; without any, everybody may ask.
    """

    model_config = SettingsConfigDict(env_prefix="TIRE_", env_ignore_empty=True, frozen=True, extra="ignore")

    home: Path = Path(".tire")
    project: str = Field("tire-defect", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    positive_class: str = "defective"

    bucket: str = "tire"
    s3_endpoint_url: str = ""
    s3_region: str = "us-east-1"
    s3_access_key_id: SecretStr | None = None
    s3_secret_access_key: SecretStr | None = None

    mlflow_url: str = ""
    mlflow_public_url: str = ""  # what browsers know it as, where that is another address
    ledger_url: SecretStr | None = None
    serving_url: str = "http://127.0.0.1:8000"
    serving_public_url: str = ""  # what browsers know it as, where that is another address
    serving_image: str = ""  # whose container is checked before a promotion; empty: a process
    shadow_alias: str = Field("staging", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    canary_weight: float = Field(0.0, ge=0.0, lt=1.0)  # at 1 no champion answers, whose latency is the measure
    api_keys: str = Field("", pattern=r"^([0-9a-f]{64}(,[0-9a-f]{64})*)?$")
    airflow_url: str = ""
    airflow_user: str = "admin"
    airflow_password: SecretStr | None = None

    cache_max_bytes: int = Field(100_000_000_000, gt=0)

    weights: str = ""
    allow_noncommercial_weights: bool = False

    trainer: Literal["process", "docker", "kubernetes", "sagemaker"] = "process"
    trainer_image: str = "tire-trainer:latest"
    trainer_gpus: int = Field(0, ge=0)  # of the host; each training gets one
    trainer_network: str = "bridge"
    trainer_memory: str = Field("", pattern=r"^([1-9][0-9]*[kmg])?$")
    trainer_timeout_s: int = Field(86_400, gt=0)
    deployment: str = Field("", pattern=r"^[A-Za-z0-9_.-]{0,63}$")

    kubernetes_namespace: str = ""
    kubernetes_secret: str = ""  # the name of a Secret whose keys are variables for the trainer
    sagemaker_role_arn: str = ""
    sagemaker_instance_type: str = "ml.g5.xlarge"
    sagemaker_subnets: str = ""  # comma-separated, like the groups; without them MLflow must be public
    sagemaker_security_groups: str = ""

    check_p95_ms: float = Field(2000.0, gt=0)
    check_memory_mb: float = Field(2048.0, gt=0)
    check_retakes_max: float = Field(0.5, ge=0, le=1)  # share of the test images
    parity_difference_max: float = Field(1e-4, ge=0)
    parity_flips_max: int = Field(0, ge=0)
    parity_int8_difference_max: float = Field(1.0, ge=0)  # of INT8 its own evaluation decides, unless more is asked for
    parity_int8_flips_max: int | None = Field(None, ge=0)

    slack_webhook_url: SecretStr | None = None
    watch_interval_s: float = Field(5.0, ge=1.0, le=3600.0)

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @property
    def api_key_digests(self) -> list[str]:
        return self.api_keys.split(",") if self.api_keys else []

    @property
    def deployment_id(self) -> str:
        """Tells this Airflow's containers from another's on the same host: both may know the same project and run."""
        return self.deployment or hashlib.sha256(f"{self.home}\n{self.airflow_url}".encode()).hexdigest()[:16]

    @property
    def cache(self) -> Path:
        """Decoded images (at most `cache_max_bytes`) and downloaded bundles; all of it can be deleted at any time."""
        return self.home / "cache"


def load_settings() -> Settings:
    """Settings from the environment, then from `$TIRE_HOME/stack.env` where an embedded stack was started.

    Raises InputError naming each variable that cannot be used.
    """
    home = Path(os.environ.get("TIRE_HOME") or ".tire")
    try:
        return Settings(_env_file=home / STACK_ENV)  # type: ignore[call-arg]
    except ValidationError as error:
        problems = "; ".join(f"TIRE_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise InputError(f"The settings cannot be used: {re.sub(r'Input should', 'should', problems)}.") from None
