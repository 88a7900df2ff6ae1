"""A server that is started to be checked: a container of the image that is deployed, or a process like this one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:  # who starts a process has no use for an engine's client
    from tire_pipeline.stores.containers import Containers

STOP_S = 30.0


@dataclass(frozen=True)
class Started:
    """A server that may not be ready yet. `ended` says how it ended, or nothing; `last_words` are of its log."""

    url: str
    memory_bytes: Callable[[], int]
    ended: Callable[[], str]
    last_words: Callable[[], str]


@dataclass(frozen=True)
class ServingImage:
    """The image to check with, and where and whose its container is: `task` are the labels of the task instance that
    waits for it, empty where none does."""

    name: str
    network: str
    containers: Containers
    task: Mapping[str, str]


@contextmanager
def container(folder: Path, *, key_digest: str, image: ServingImage) -> Iterator[Started]:
    """The image serving the bundle in the folder; removed at the end, or by the reaper when this process is killed."""
    engine = image.containers
    container_id = engine.serve(image.name, folder, api_keys=key_digest, network=image.network, labels=image.task)
    try:
        yield Started(
            engine.address(container_id, network=image.network),
            memory_bytes=lambda: engine.memory_bytes(container_id),
            ended=lambda: engine.ended(container_id),
            last_words=lambda: engine.last_words(container_id),
        )
    finally:
        engine.remove(container_id)


@contextmanager
def process(folder: Path, *, key_digest: str, log_file: Path) -> Iterator[Started]:
    """`tire serve` on the bundle in the folder, on a free port of loopback; stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tire_pipeline", "serve", "--bundle", str(folder), "--port", str(port)]
    with log_file.open("wb") as log:
        server = subprocess.Popen(
            command, env={**os.environ, "TIRE_API_KEYS": key_digest}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield Started(
            f"http://127.0.0.1:{port}",
            memory_bytes=lambda: _memory_bytes(server.pid),
            ended=lambda: "" if server.poll() is None else str(server.returncode),
            last_words=lambda: " / ".join(log_file.read_text(errors="replace").strip().splitlines()[-5:]),
        )
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _memory_bytes(pid: int) -> int:
    """Of the process and its children; one that has just ended takes none."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        server = psutil.Process(pid)
        for one in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total
