"""The composition root: live objects from Settings, each built on first use, once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tire_pipeline.errors import InputError
from tire_pipeline.settings import Settings, load_settings
from tire_pipeline.stores.ledger import Ledger
from tire_pipeline.stores.objects import ObjectStore, connect
from tire_pipeline.stores.orchestrator import Orchestrator
from tire_pipeline.stores.tracking import Tracking


@dataclass(frozen=True)
class Services:
    """The stores of one deployment. Safe to share between threads; not between processes."""

    settings: Settings

    @cached_property
    def objects(self) -> ObjectStore:
        return connect(self.settings)

    @cached_property
    def tracking(self) -> Tracking:
        return Tracking(_configured(self.settings.mlflow_url, "TIRE_MLFLOW_URL"), project=self.settings.project)

    @cached_property
    def ledger(self) -> Ledger:
        url = self.settings.ledger_url
        return Ledger(_configured(url.get_secret_value() if url else "", "TIRE_LEDGER_URL"))

    @cached_property
    def studies(self) -> Any:
        """Optuna's storage, loaded where something is searched."""
        from tire_pipeline.stores.studies import connect as connect_studies  # noqa: PLC0415  (Optuna takes half a second)

        url = self.settings.ledger_url
        return connect_studies(_configured(url.get_secret_value() if url else "", "TIRE_LEDGER_URL"))

    @cached_property
    def orchestrator(self) -> Orchestrator:
        s = self.settings
        password = s.airflow_password.get_secret_value() if s.airflow_password else ""
        return Orchestrator(_configured(s.airflow_url, "TIRE_AIRFLOW_URL"), user=s.airflow_user, password=password)

    def close(self) -> None:
        """Close the connections that were opened; what is used afterwards opens its own again."""
        for name in ("ledger", "orchestrator"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()


def services(settings: Settings | None = None) -> Services:
    """The services of these settings, or of the environment's."""
    quiet_libraries()
    return Services(settings or load_settings())


def quiet_libraries() -> None:
    """Tell the libraries not to phone home, draw progress bars or spin; what the environment says stays."""
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
    }.items():
        os.environ.setdefault(name, value)


def _configured(value: str, variable: str) -> str:
    if not value:
        raise InputError(
            f"{variable} is not set, and no embedded stack was started here. `tire up` starts one; its addresses are "
            "then found by themselves (TIRE_HOME says where, default .tire)."
        )
    return value
