"""Trainer containers on a Docker engine: which there are, whose they are, and how one is ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
from docker.api import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env

from tire_pipeline.errors import ServiceUnavailable

PREFIX = "tire."
BUSY = ("removal of container", "is already in progress")


@dataclass(frozen=True)
class TrainerContainer:
    """One container as its labels tell it. `labels` come without their prefix `tire.`; `state` is Docker's word."""

    id: str
    name: str
    state: str
    labels: Mapping[str, str]

    @property
    def task(self) -> tuple[str, str, str, int]:
        """dag_id, run_id, task_id and map_index of the task instance it trains for."""
        labels = self.labels
        return labels["dag_id"], labels["run_id"], labels["task_id"], int(labels["map_index"])


class Containers:
    """The trainer containers of one deployment. Safe to repeat; ServiceUnavailable without an engine."""

    def __init__(self, client: APIClient, *, deployment: str) -> None:
        self._client, self._deployment = client, deployment

    def all(self, **labels: str) -> list[TrainerContainer]:
        """Those of this deployment with these labels, ended ones too."""
        wanted = labelled({"deployment": self._deployment, **labels})
        with _errors():
            found = self._client.containers(all=True, filters={"label": [f"{k}={v}" for k, v in wanted.items()]})
        return [_container(record) for record in found]

    def gpus_in_use(self) -> set[str]:
        """The GPUs that trainers of any deployment on this engine were given and still have."""
        with _errors():
            found = self._client.containers(filters={"label": f"{PREFIX}gpu"})
        return {_container(record).labels["gpu"] for record in found}

    def remove(self, container_id: str) -> None:
        """End the container at once and remove it with its volumes; one that is gone is no error."""
        with _errors():
            try:
                self._client.remove_container(container_id, v=True, force=True)
            except NotFound:
                pass
            except APIError as error:
                if not all(word in str(error) for word in BUSY):
                    raise


def connect(deployment: str) -> Containers:
    """The engine that DOCKER_HOST names, or the one of this host."""
    with _errors():
        return Containers(APIClient(**kwargs_from_env(), version="auto"), deployment=deployment)


def labelled(names: Mapping[str, str]) -> dict[str, str]:
    """The labels as they stand on a container."""
    return {f"{PREFIX}{name}": value for name, value in names.items()}


def _container(record: Mapping[str, Any]) -> TrainerContainer:
    labels = {k.removeprefix(PREFIX): v for k, v in (record["Labels"] or {}).items() if k.startswith(PREFIX)}
    return TrainerContainer(record["Id"], record["Names"][0].lstrip("/"), record["State"], labels)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (DockerException, requests.RequestException) as error:
        raise ServiceUnavailable(
            f"The Docker engine did not answer as it should ({error}). DOCKER_HOST says where it is, and `docker info` "
            "asks it."
        ) from error
