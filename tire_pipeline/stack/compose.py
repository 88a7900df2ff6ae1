"""The stack of docker-compose.yaml, driven by `docker compose`: nothing is built or pulled that nobody asked for."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.settings import Settings
from tire_pipeline.stack.records import HOST
from tire_pipeline.wiring import Services, services

REPOSITORY = Path(__file__).parents[2]
UP_S = 900


@dataclass(frozen=True)
class Compose:
    """One stack by its repository and file of secrets. `settings` are the caller's: where samples are kept."""

    settings: Settings
    env_file: Path = REPOSITORY / ".env"
    repository: Path = field(default=REPOSITORY)

    def up(self) -> tuple[Services, dict[str, str]]:
        """Start everything and wait until it is healthy; safe to repeat. Returns its services and its addresses.

        InputError for what is missing here, with the command that helps; ServiceUnavailable for a part that stays down.
        """
        environment = self._environment()
        self._demand_images()
        began = time.monotonic()
        done = self._compose("up", "--detach", "--wait", "--wait-timeout", str(UP_S), "--no-build", "--pull", "never")
        if done.returncode:
            raise ServiceUnavailable(
                f"`docker compose up` gave up after {time.monotonic() - began:.0f} s:\n{done.stderr.strip()[-1500:]}\n"
                f"`docker compose --project-directory {self.repository} logs` says more."
            )
        return services(host_settings(self.settings, environment)), _addresses(environment)

    def down(self) -> None:
        """Stop and remove the containers; the volumes stay."""
        self._compose("down", "--timeout", "30")

    def wait(self) -> None:
        """Until a part that should run does not."""
        while all(part["State"] == "running" for part in self._parts() if part["Service"] != "migrate"):
            time.sleep(5)

    def _parts(self) -> list[dict[str, Any]]:
        lines = self._compose("ps", "--all", "--format", "json").stdout.splitlines()
        return [json.loads(line) for line in lines]

    def _environment(self) -> dict[str, str]:
        if not self.env_file.is_file():
            raise InputError(
                f"{self.env_file} is missing: the stack has no secrets of its own. "
                f"Make it: python3 docker/make_env.py > {self.env_file} && chmod 600 {self.env_file}"
            )
        checked = self._compose("config", "--quiet")
        if checked.returncode:
            raise InputError(f"docker-compose.yaml cannot be used with {self.env_file}: {checked.stderr.strip()}")
        return {k: v or "" for k, v in dotenv_values(self.env_file).items()}

    def _demand_images(self) -> None:
        wanted = set(self._compose("config", "--images").stdout.split()) | {self._trainer_image()}
        missing = [name for name in sorted(wanted) if _run("docker", "image", "inspect", name).returncode]
        if not missing:
            return
        ours = [name for name in missing if name.startswith("tire-")]
        build = f"Build {', '.join(ours)}: make images. " if ours else ""
        pull = f"Fetch {', '.join(set(missing) - set(ours))}: docker compose pull." if set(missing) - set(ours) else ""
        raise InputError(f"Images are missing on this host, and none is built or pulled by itself. {build}{pull}")

    def _trainer_image(self) -> str:
        """Of no service of the file: the worker starts it."""
        config = json.loads(self._compose("config", "--format", "json").stdout)
        return str(config["services"]["airflow-worker"]["environment"]["TIRE_TRAINER_IMAGE"])

    def _compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        where = ["--project-directory", str(self.repository), "--env-file", str(self.env_file), "--progress", "quiet"]
        return _run("docker", "compose", *where, *arguments)


def host_settings(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """The stack as this host sees it: by the ports that are published on loopback."""
    in_stack = environment.get("TIRE_S3_ENDPOINT_URL", "").startswith("http://s3:")
    found: dict[str, Any] = {
        "project": environment.get("TIRE_PROJECT") or settings.project,
        "bucket": environment["TIRE_BUCKET"],
        "s3_endpoint_url": _url(environment, "S3_PORT", 8333) if in_stack else environment["TIRE_S3_ENDPOINT_URL"],
        "s3_region": environment.get("TIRE_S3_REGION") or settings.s3_region,
        "s3_access_key_id": environment["TIRE_S3_ACCESS_KEY_ID"],
        "s3_secret_access_key": environment["TIRE_S3_SECRET_ACCESS_KEY"],
        "mlflow_url": _url(environment, "MLFLOW_PORT", 5000),
        "serving_url": _url(environment, "SERVING_PORT", 8000),
        "airflow_url": _url(environment, "AIRFLOW_PORT", 8080),
        "airflow_password": environment["TIRE_AIRFLOW_PASSWORD"],
    }
    return Settings(home=settings.home, **found)


def _url(environment: Mapping[str, str], variable: str, default: int) -> str:
    return f"http://{HOST}:{environment.get(variable) or default}"


def _addresses(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        "Airflow": f"{_url(environment, 'AIRFLOW_PORT', 8080)}   user admin, password TIRE_AIRFLOW_PASSWORD of .env",
        "MLflow": f"{_url(environment, 'MLFLOW_PORT', 5000)}   no login",
        "Serving page": f"{_url(environment, 'SERVING_PORT', 8000)}   no login",
    }


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=UP_S + 60, check=False)
    except subprocess.TimeoutExpired as late:
        raise ServiceUnavailable(f"`{' '.join(command[:2])} …` did not end within {late.timeout:.0f} s.") from None
    except FileNotFoundError:
        raise InputError("There is no `docker` on this host. `tire demo` without --compose needs none.") from None
