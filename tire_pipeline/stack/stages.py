"""The stacks on which the story can be told: what of them it needs, and the embedded one. `compose` is the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tire_pipeline.settings import Settings, load_settings
from tire_pipeline.stack.lifecycle import down, up, wait
from tire_pipeline.stack.records import StackInfo
from tire_pipeline.wiring import Services, services

Say = Callable[[str], None]


class Stage(Protocol):
    """A stack on which the story can be told."""

    @property
    def settings(self) -> Settings: ...

    def up(self) -> tuple[Services, dict[str, str]]:
        """Start it; its services, and where people go."""

    def down(self) -> None: ...

    def wait(self) -> None:
        """Until it ends by itself."""


@dataclass(frozen=True)
class Embedded:
    """The stack of `tire up`."""

    settings: Settings
    say: Say

    def up(self) -> tuple[Services, dict[str, str]]:
        info = up(self.settings.home, project=self.settings.project, say=self.say)
        return services(load_settings()), addresses(info)

    def down(self) -> None:
        down(self.settings.home, say=self.say)

    def wait(self) -> None:
        wait(self.settings.home)


def addresses(info: StackInfo) -> dict[str, str]:
    """Where people go, with the login where there is one."""
    password = load_settings().airflow_password
    login = f"user {info.airflow_user}, password {password.get_secret_value()}" if password else ""
    return {
        "Airflow": f"{info.airflow_url}   {login}",
        "MLflow": f"{info.mlflow_url}   no login",
        "Serving page": f"{info.serving_url}   no login",
        "Secrets": f"{info.secrets_file}   readable by you alone",
    }
