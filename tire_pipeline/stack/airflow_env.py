"""Airflow's share of the environment. Each value that is not the obvious one says what happened without it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from tire_pipeline.stack.config import AIRFLOW_USER, REGION, Config
from tire_pipeline.stack.records import HOST

if TYPE_CHECKING:
    from pathlib import Path


# Small networks train faster side by side with a core each than one after the other with all cores: on two cores the
# threads of one training met 1,500 times a second, and 267 images/s became 150 as soon as Airflow worked beside it.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
TRAININGS_AT_ONCE = min(CORES, 4)
THREADS_EACH = CORES // TRAININGS_AT_ONCE


def airflow_env(config: Config, *, repository: Path) -> dict[str, str]:
    """Variables of all four Airflow processes; they and `airflow db migrate` must see the same ones."""
    home = config.home / "airflow"
    options = {
        **_core(config, home=home, repository=repository),
        **_recovery(),
        "DATABASE__SQL_ALCHEMY_CONN": config.database_url("airflow"),
        "LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "USAGE_DATA_COLLECTION__ENABLED": "False",
        "API__HOST": HOST,
        "API__PORT": str(config.ports.airflow),
        "API__BASE_URL": config.url("airflow"),
        "API__WORKERS": "1",
        "API__SECRET_KEY": config.secrets.airflow_api_secret,
        "API_AUTH__JWT_SECRET": config.secrets.airflow_jwt_secret,
        "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
    }
    environment = {f"AIRFLOW__{name}": value for name, value in options.items()}
    return {
        **environment,
        "AIRFLOW_HOME": str(home),
        "OMP_NUM_THREADS": str(THREADS_EACH),
        "AIRFLOW_CONN_AWS_DEFAULT": _aws_connection(config),
    }


def _core(config: Config, *, home: Path, repository: Path) -> dict[str, str]:
    return {
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "8",
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__DAGS_FOLDER": str(repository / "dags"),
        "CORE__PLUGINS_FOLDER": str(repository / "plugins"),
        "CORE__FERNET_KEY": config.secrets.airflow_fernet_key,
        "CORE__EXECUTION_API_SERVER_URL": f"{config.url('airflow')}/execution/",
        "CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{AIRFLOW_USER}:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords_file(config)),
    }


def _recovery() -> dict[str, str]:
    """An api-server away for two minutes must not fail a training; a killed one must be noticed in two minutes."""
    return {
        "WORKERS__MAX_FAILED_HEARTBEATS": "24",
        "EXECUTION_API__JWT_EXPIRATION_TIME": "172800",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
    }


def passwords_file(config: Config) -> Path:
    """Written before the first start: SimpleAuthManager would print a password it makes itself into the log."""
    return config.home / "airflow" / "passwords.json"


def _aws_connection(config: Config) -> str:
    return json.dumps(
        {
            "conn_type": "aws",
            "login": config.secrets.s3_access_key_id,
            "password": config.secrets.s3_secret_access_key,
            "extra": {"endpoint_url": config.url("s3"), "region_name": REGION},
        }
    )
