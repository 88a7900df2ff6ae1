"""What must be true before the rest of docker-compose.yaml starts; run to its end once for each `docker compose up`.

Schemas of Airflow, MLflow and the ledger; the bucket; Airflow's login and pools. Safe to repeat.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tire_pipeline.settings import load_settings
from tire_pipeline.stores import ledger
from tire_pipeline.wiring import services

# `mlflow db upgrade URL` wants the URL, with its password, on the command line. This is the same function.
MLFLOW_UPGRADE = "import os; from mlflow.db import upgrade; upgrade.callback(os.environ['MLFLOW_BACKEND_STORE_URI'])"


def run(*command: str) -> None:
    sys.stderr.write(f"migrate: {' '.join(command[1:6])}\n")
    subprocess.run(command, check=True)


def main() -> None:
    settings = load_settings()
    airflow = (sys.executable, "-m", "airflow")
    run(*airflow, "db", "migrate")
    run(sys.executable, "-c", MLFLOW_UPGRADE)
    ledger.migrate(settings.ledger_url.get_secret_value())  # type: ignore[union-attr]  # compose demands it
    if settings.s3_endpoint_url:  # a bucket of AWS is its owner's to make
        services(settings).objects.ensure_bucket()
    run(*airflow, "pools", "set", "train", os.environ["TIRE_TRAININGS_AT_ONCE"], "Trainings at one time without GPUs")
    run(*airflow, "pools", "set", "gpu", str(max(1, settings.trainer_gpus)), "A slot a GPU")
    ensure_user(settings.airflow_user, settings.airflow_password.get_secret_value())  # type: ignore[union-attr]


def ensure_user(name: str, password: str) -> None:
    """The login of .env, with the rights of an administrator; a password that was changed there is changed here."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder  # noqa: PLC0415

    with get_application_builder() as builder:
        manager = builder.sm
        if user := manager.find_user(username=name):
            manager.reset_password(user.id, password)
        else:
            role = manager.find_role("Admin")
            if not manager.add_user(name, "Tire", "Pipeline", f"{name}@localhost", role, password):
                sys.exit(f"migrate: the user {name} could not be made; see above")


if __name__ == "__main__":
    main()
