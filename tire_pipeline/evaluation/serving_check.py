"""The serving check: the very server that would answer in production, started with the candidate and asked."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import GateRefused, InputError
from tire_pipeline.metrics import Floats

GOLDEN_MAX = 1e-3
READY_S = 60.0
AT_ONCE = 16
NUM_CLIENTS = 4
BAD_INPUTS = {"text": b"no image", "nothing": b"", "half a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"}


@dataclass(frozen=True)
class ServingLimits:
    """What the server may take under a short load of four clients: time of 19 requests in 20, and memory."""

    p95_ms: float = 2000.0
    memory_mb: float = 2048.0
    load_requests: int = 60


@dataclass(frozen=True)
class Server:
    """A server that answers with the bundle, and the process that it is."""

    client: httpx.Client
    process: subprocess.Popen[bytes]
    log_file: Path
    ready_s: float


@contextmanager
def serving(folder: Path, *, log_file: Path) -> Iterator[tuple[Bundle, Server]]:
    """The bundle in the folder and a server that is ready to answer with it; stopped at the end.

    Raises GateRefused when the bundle is damaged, or the server does not come up with it.
    """
    try:
        bundle = Bundle.load(folder)
    except InputError as error:
        raise GateRefused(f"{error} Nothing was promoted.") from None
    begun = time.monotonic()
    key = secrets.token_urlsafe(32)  # the server's own keys are known to it as hashes alone
    headers = {"Authorization": f"Bearer {key}"}
    with (
        _process(bundle, log_file, key) as (process, url),
        httpx.Client(base_url=url, timeout=30, headers=headers, trust_env=False) as client,
    ):
        _wait_ready(client, process, log_file)
        yield bundle, Server(client, process, log_file, time.monotonic() - begun)


def check_answers(bundle: Bundle, server: Server) -> dict[str, float]:
    """Ask for the golden images and for what is no image. Returns the largest difference in a probability.

    Raises GateRefused when an answer differs from what the bundle expects, or bad input gets a class or an error 500.
    """
    golden = bundle.golden_images()
    given_NK = answers(bundle, server, [data for data, _ in golden])
    worst = float(np.abs(given_NK - np.array([expected for _, expected in golden])).max(initial=0.0))
    if not golden or not worst <= GOLDEN_MAX:
        raise GateRefused(
            f"The server answers its {len(golden)} golden images {worst:.2e} away from what the bundle expects; at "
            f"most {GOLDEN_MAX:.0e} is allowed. Nothing was promoted."
        )
    for name, data in BAD_INPUTS.items():
        (answer,) = _predict(server.client, [data])
        if "error" not in answer:
            raise GateRefused(f"The server gave a class for {name} instead of an image. Nothing was promoted.")
    return {"max_difference": worst, "ready_s": server.ready_s}


def answers(bundle: Bundle, server: Server, pictures: Sequence[bytes]) -> Floats:
    """The server's probabilities (N, K) of encoded pictures. Raises GateRefused when one gets none, or another model
    answers."""
    rows: list[list[float]] = []
    for start in range(0, len(pictures), AT_ONCE):
        for i, answer in enumerate(_predict(server.client, pictures[start : start + AT_ONCE]), start=start):
            if "error" in answer:
                raise GateRefused(f"The server cannot answer picture {i}: {answer['error']} Nothing was promoted.")
            if answer.get("model_digest") != bundle.digest:
                raise GateRefused(f"The server names the model {answer.get('model_digest')}, not {bundle.digest}.")
            rows.append([answer["probabilities"][c] for c in bundle.classes])
    return np.array(rows, np.float32).reshape(-1, len(bundle.classes))


def check_load(bundle: Bundle, server: Server, limits: ServingLimits) -> dict[str, float]:
    """Four clients ask for golden images at once. Returns times of a request in ms, and the memory after it in MB.

    Raises GateRefused when either is over its limit.
    """
    pictures = [data for data, _ in bundle.golden_images()]

    def ask(i: int) -> float:
        begun = time.perf_counter()
        _predict(server.client, [pictures[i % len(pictures)]])
        return (time.perf_counter() - begun) * 1000

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        times = list(pool.map(ask, range(limits.load_requests)))
    median, p95 = (float(np.percentile(times, q)) for q in (50, 95))
    processes = psutil.Process(server.process.pid)
    memory = sum(p.memory_info().rss for p in (processes, *processes.children(recursive=True))) / 1e6
    found = {"median_ms": median, "p95_ms": p95, "memory_mb": memory}
    for name, limit in (("p95_ms", limits.p95_ms), ("memory_mb", limits.memory_mb)):
        if found[name] > limit:
            raise GateRefused(
                f"The server takes {found[name]:.1f} ({name}) with this model under {NUM_CLIENTS} clients; at most "
                f"{limit:g} is allowed. Nothing was promoted."
            )
    return found


@contextmanager
def _process(bundle: Bundle, log_file: Path, key: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tire_pipeline", "serve", "--bundle", str(bundle.path), "--port", str(port)]
    env = {**os.environ, "TIRE_API_KEYS": hashlib.sha256(key.encode()).hexdigest()}
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_ready(client: httpx.Client, process: subprocess.Popen[bytes], log_file: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    last = " / ".join(log_file.read_text(errors="replace").strip().splitlines()[-5:])
    what = f"was not ready within {READY_S:.0f} s" if process.poll() is None else f"ended with {process.returncode}"
    raise GateRefused(f"The server {what} with this bundle: {last} Nothing was promoted.")


def _predict(client: httpx.Client, pictures: Sequence[bytes]) -> list[dict[str, Any]]:
    files = [("images", (f"{i}.png", data, "image/png")) for i, data in enumerate(pictures)]
    answer = client.post("/predict", files=files)
    if answer.status_code != 200:
        raise GateRefused(f"The server answered {answer.status_code}: {answer.text[:200]}. Nothing was promoted.")
    body = answer.json()
    found: list[dict[str, Any]] = body["predictions"] if isinstance(body, dict) else body
    return found
