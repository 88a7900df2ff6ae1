"""Containers on a Docker engine: which trainers there are and whose they are, a server of one bundle, and how one is
ended."""

from __future__ import annotations

import secrets
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import requests
from docker.api import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env

from tire_pipeline.errors import InputError, ServiceUnavailable

PREFIX = "tire."
WORK, BUNDLE = "/work", "bundle"  # in the serving image: a volume, where files can be put before it starts
SERVING_PORT = 8000
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
    """The containers of one deployment. Safe to repeat; ServiceUnavailable without an engine."""

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

    def serve(self, image: str, bundle: Path, *, api_keys: str, network: str, labels: Mapping[str, str]) -> str:
        """Start the serving image on the bundle in a folder, for those on the network who have a key. Returns its id.

        With the labels of a task instance (see `TrainerContainer.task`) it is one of this deployment's containers,
        which the reaper removes when the task has ended; without any it is nobody's but the caller's.
        """
        named = labelled({"deployment": self._deployment, **labels}) if labels else {}
        with _errors():
            container_id: str = self._client.create_container(
                image=image,
                command=["serve", "--host", "0.0.0.0", "--port", str(SERVING_PORT), "--bundle", f"{WORK}/{BUNDLE}"],  # noqa: S104
                name=f"tire-check-{secrets.token_hex(8)}",
                environment={"TIRE_API_KEYS": api_keys},
                labels=named,
                volumes=[WORK],
                host_config=self._client.create_host_config(
                    network_mode=network,
                    init=True,
                    read_only=True,
                    tmpfs={"/tmp": "mode=1777"},  # noqa: S108  (inside the container)
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges"],
                    pids_limit=1024,
                ),
            )["Id"]
        try:
            with _errors(), _archive(bundle, BUNDLE) as archive:
                self._client.put_archive(container_id, WORK, archive)
                self._client.start(container_id)
        except BaseException:
            self.remove(container_id)
            raise
        return container_id

    def address(self, container_id: str, *, network: str) -> str:
        """Where a started server answers. InputError when it has no address of its own on the network."""
        with _errors():
            networks = self._client.inspect_container(container_id)["NetworkSettings"]["Networks"]
        address = networks.get(network, {}).get("IPAddress", "")
        if not address:
            raise InputError(
                f"The container has no address on the network {network!r}. TIRE_TRAINER_NETWORK must name a bridge."
            )
        return f"http://{address}:{SERVING_PORT}"

    def ended(self, container_id: str) -> str:
        """How the container ended, empty while it runs."""
        with _errors():
            state = self._client.inspect_container(container_id)["State"]
        return "" if state["Running"] else str(state["ExitCode"])

    def memory_bytes(self, container_id: str) -> int:
        """What the container takes now, without files that the kernel could drop, as `docker stats` counts."""
        with _errors():
            memory = self._client.stats(container_id, stream=False, one_shot=True)["memory_stats"]
        return int(memory.get("usage", 0)) - int(memory.get("stats", {}).get("inactive_file", 0))

    def last_words(self, container_id: str) -> str:
        """The end of the container's log."""
        with _errors():
            said: bytes = self._client.logs(container_id, tail=5)
        return " / ".join(said.decode(errors="replace").strip().splitlines())

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
def _archive(folder: Path, name: str) -> Iterator[BinaryIO]:
    """The folder as a tar file, under another name and readable by everybody."""

    def readable(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(folder, arcname=name, filter=readable)
        file.seek(0)
        yield file


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (DockerException, requests.RequestException) as error:
        raise ServiceUnavailable(
            f"The Docker engine did not answer as it should ({error}). DOCKER_HOST says where it is, and `docker info` "
            "asks it."
        ) from error
