"""The composition root: live objects from Settings, each built on first use, once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tire_pipeline.errors import InputError
from tire_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from tire_pipeline.stores.containers import Containers
    from tire_pipeline.stores.ledger import Ledger
    from tire_pipeline.stores.objects import ObjectStore
    from tire_pipeline.stores.orchestrator import Orchestrator
    from tire_pipeline.stores.tracking import Tracking

LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Services:
    """The stores of one deployment. Safe to share between threads; not between processes.

    A store's library is loaded with it: MLflow's takes a second, which a step that only reads S3 need not wait for.
    """

    settings: Settings

    @cached_property
    def objects(self) -> ObjectStore:
        from tire_pipeline.stores.objects import connect

        return connect(self.settings)

    @cached_property
    def tracking(self) -> Tracking:
        from tire_pipeline.stores.tracking import Tracking

        s = self.settings
        url = _configured(s.mlflow_url, "TIRE_MLFLOW_URL")
        return Tracking(url, project=s.project, public_url=s.mlflow_public_url)

    @cached_property
    def ledger(self) -> Ledger:
        from tire_pipeline.stores.ledger import Ledger

        url = self.settings.ledger_url
        return Ledger(_configured(url.get_secret_value() if url else "", "TIRE_LEDGER_URL"))

    @cached_property
    def studies(self) -> Any:
        """Optuna's storage, loaded where something is searched."""
        from tire_pipeline.stores.studies import connect as connect_studies

        url = self.settings.ledger_url
        return connect_studies(_configured(url.get_secret_value() if url else "", "TIRE_LEDGER_URL"))

    @cached_property
    def orchestrator(self) -> Orchestrator:
        from tire_pipeline.stores.orchestrator import Orchestrator

        s = self.settings
        password = s.airflow_password.get_secret_value() if s.airflow_password else ""
        return Orchestrator(_configured(s.airflow_url, "TIRE_AIRFLOW_URL"), user=s.airflow_user, password=password)

    @cached_property
    def containers(self) -> Containers:
        from tire_pipeline.stores import containers

        return containers.connect(self.settings.deployment_id)

    def close(self) -> None:
        """Close the connections that were opened; what is used afterwards opens its own again."""
        for name in ("ledger", "orchestrator"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()


@dataclass(frozen=True)
class FolderServices(Services):
    """Stores of one training that has no services: objects below `folder`, its run below `runs`."""

    folder: Path
    runs: Path

    @cached_property
    def objects(self) -> ObjectStore:
        from tire_pipeline.stores.folder import FolderClient
        from tire_pipeline.stores.objects import ObjectStore

        return ObjectStore(FolderClient(self.folder), bucket=self.settings.bucket, where=str(self.folder))

    @cached_property
    def tracking(self) -> Tracking:
        from tire_pipeline.stores.folder import FolderTracking

        return cast("Tracking", FolderTracking(self.runs, project=self.settings.project))


def folder_services(folder: Path, *, runs: Path) -> Services:
    """Services that need none: see FolderServices."""
    quiet_libraries()
    reach_loopback_directly()
    return FolderServices(load_settings(), folder, runs)


def services(settings: Settings | None = None) -> Services:
    """The services of these settings, or of the environment's."""
    quiet_libraries()
    reach_loopback_directly()
    return Services(settings or load_settings())


def reach_loopback_directly() -> None:
    """Tell every HTTP client that no proxy leads to this host's own services; other exceptions stay."""
    there = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    names = [name.strip() for name in there.split(",") if name.strip()]
    if "*" not in names:
        names += [name for name in LOOPBACK if name not in names]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(names)


def quiet_libraries() -> None:
    """Tell the libraries not to phone home, draw progress bars, spin or hoard; what the environment says stays.

    They read it when they are loaded, so steps ask for services first.
    """
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        # Threads that wait must not spin: beside other work on two cores, training was 9 times slower when they did.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Arrow's own allocator kept three times what was in use: 296 MB for an index of 78 MB, this one 102.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }.items():
        os.environ.setdefault(name, value)


def _configured(value: str, variable: str) -> str:
    if not value:
        raise InputError(
            f"{variable} is not set, and no embedded stack was started here. `tire up` starts one; its addresses are "
            "then found by themselves (TIRE_HOME says where, default .tire)."
        )
    return value
