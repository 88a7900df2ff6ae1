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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import GateRefused

DIFFERENCE_MAX = 1e-3
READY_S = 60.0


def check_serving(bundle: Bundle, *, log_file: Path) -> dict[str, float]:
    """Start the server on the bundle, ask for its golden images and for one that is no image, stop it.

    Returns the largest probability difference, the median latency in ms and the start time in s. Raises GateRefused
    when the server does not come up, answers otherwise than the bundle expects, or takes a broken image for a picture.
    """
    start = time.monotonic()
    key = secrets.token_urlsafe(32)  # the server's own keys are known to it as hashes alone
    with (
        _server(bundle, log_file, key) as url,
        httpx.Client(base_url=url, timeout=30, headers={"Authorization": f"Bearer {key}"}) as client,
    ):
        _wait_ready(client, log_file)
        ready_s = time.monotonic() - start
        differences, latencies = [], []
        for data, expected in bundle.golden_images():
            asked = time.monotonic()
            answer = _predict(client, data)
            latencies.append((time.monotonic() - asked) * 1000)
            differences.append(_difference(answer, bundle, expected))
        if (worst := max(differences, default=np.inf)) > DIFFERENCE_MAX:
            raise GateRefused(
                f"The server answers its golden images {worst:.2e} away from what the bundle expects; at most "
                f"{DIFFERENCE_MAX:.0e} is allowed. Nothing was promoted."
            )
        if "error" not in _predict(client, b"no image"):
            raise GateRefused("The server gave a class for bytes that are no image. Nothing was promoted.")
    return {"max_difference": worst, "median_ms": float(np.median(latencies)), "ready_s": ready_s}


@contextmanager
def _server(bundle: Bundle, log_file: Path, key: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tire_pipeline", "serve", "--bundle", str(bundle.path), "--port", str(port)]
    env = {**os.environ, "TIRE_API_KEYS": hashlib.sha256(key.encode()).hexdigest()}
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_ready(client: httpx.Client, log_file: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    last = log_file.read_text(errors="replace").strip().splitlines()[-5:]
    raise GateRefused(f"The server was not ready with this bundle within {READY_S:.0f} s: {' / '.join(last)}")


def _predict(client: httpx.Client, data: bytes) -> dict[str, Any]:
    answer = client.post("/predict", files=[("images", ("golden.png", data, "image/png"))])
    if answer.status_code != 200:
        raise GateRefused(f"The server answered {answer.status_code}: {answer.text[:200]}. Nothing was promoted.")
    body = answer.json()
    first: dict[str, Any] = (body["predictions"] if isinstance(body, dict) else body)[0]
    return first


def _difference(answer: dict[str, Any], bundle: Bundle, expected: list[float]) -> float:
    if answer.get("model_digest") != bundle.digest:
        raise GateRefused(f"The server names the model {answer.get('model_digest')}, not {bundle.digest}.")
    given = [answer["probabilities"][c] for c in bundle.classes]
    return float(np.abs(np.asarray(given) - np.asarray(expected)).max())
