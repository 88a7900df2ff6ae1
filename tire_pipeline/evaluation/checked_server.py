"""A server that is started to be checked: a process of this environment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_S = 30.0


@dataclass(frozen=True)
class Started:
    """A server that may not be ready yet. `ended` says how it ended, or nothing; `last_words` are of its log."""

    url: str
    memory_bytes: Callable[[], int]
    ended: Callable[[], str]
    last_words: Callable[[], str]


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
