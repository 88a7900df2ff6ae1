"""The serving check: the very server that would answer in production, started with the candidate and asked."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import GateRefused, InputError
from tire_pipeline.evaluation.checked_server import ServingImage, Started, container, process
from tire_pipeline.metrics import Floats

GOLDEN_MAX = 1e-3
READY_S = 60.0
# Below what the server takes (serving/limits.py): images and bytes of one request, bytes of one image.
IMAGES_AT_ONCE = 16
BYTES_AT_ONCE = 32 * 2**20
IMAGE_BYTES_MAX = 20 * 2**20
NUM_CLIENTS = 4
SAMPLE_S = 0.02
BAD_INPUTS = {"text": b"no image", "nothing": b"", "half a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"}


@dataclass(frozen=True)
class ServingLimits:
    """What the server may take under a short load of four clients: time of 19 requests in 20, and memory."""

    p95_ms: float = 2000.0
    memory_mb: float = 2048.0
    load_requests: int = 60


@dataclass(frozen=True)
class Server:
    """A server that is ready to answer with the bundle."""

    client: httpx.Client
    started: Started
    ready_s: float


@dataclass(frozen=True)
class Served:
    """What the server said of pictures: their `places` in what was sent, probabilities (N, K), and its own label and
    decision of each."""

    places: list[int]
    p_NK: Floats
    decisions: list[tuple[str, str]]


@contextmanager
def serving(folder: Path, *, log_file: Path, image: ServingImage | None = None) -> Iterator[tuple[Bundle, Server]]:
    """The bundle in the folder and a server that is ready to answer with it, of the image if there is one; stopped at
    the end.

    Raises GateRefused when the bundle is damaged, or the server does not come up with it.
    """
    try:
        bundle = Bundle.load(folder)
    except InputError as error:
        raise GateRefused(f"{error} Nothing was promoted.") from None
    begun = time.monotonic()
    key = secrets.token_urlsafe(32)  # the server's own keys are known to it as hashes alone
    digest, headers = hashlib.sha256(key.encode()).hexdigest(), {"Authorization": f"Bearer {key}"}
    with (
        (
            container(folder, key_digest=digest, image=image)
            if image
            else process(folder, key_digest=digest, log_file=log_file)
        ) as started,
        httpx.Client(base_url=started.url, timeout=30, headers=headers, trust_env=False) as client,
    ):
        _wait_ready(client, started)
        try:
            yield bundle, Server(client, started, time.monotonic() - begun)
        except httpx.TransportError as error:
            how = f"ended with {ended}" if (ended := started.ended()) else f"did not answer ({type(error).__name__})"
            raise GateRefused(f"The server {how} while it was asked: {started.last_words()}") from error


def check_answers(bundle: Bundle, server: Server) -> dict[str, float]:
    """Ask for the golden images and for what is no image. Returns the largest difference in a probability.

    Raises GateRefused when an answer differs from what the bundle expects, or bad input gets a class or an error 500.
    """
    golden = bundle.golden_images()
    if not golden:
        raise GateRefused("The bundle has no golden images to ask the server for. Nothing was promoted.")
    given = answers(bundle, server, [data for data, _ in golden])
    worst = _difference(given.p_NK, np.array([expected for _, expected in golden], np.float32))
    for name, data in BAD_INPUTS.items():
        (answer,) = _predict(server.client, [data])
        if "error" not in answer:
            raise GateRefused(f"The server gave a class for {name} instead of an image. Nothing was promoted.")
    return {"max_difference": worst, "ready_s": server.ready_s}


def answers(bundle: Bundle, server: Server, pictures: Iterable[bytes]) -> Served:
    """The server's answers for encoded pictures, but for those above what it takes. The pictures of two requests at
    most are in memory.

    Raises GateRefused when a picture gets none, another model answers, or no picture is small enough.
    """
    places, rows, decisions = [], [], []
    for part in _requests(pictures):
        for (i, _), answer in zip(part, _predict(server.client, [data for _, data in part]), strict=True):
            places.append(i)
            rows.append(_probabilities(bundle, answer, what=f"picture {i}"))
            decisions.append((answer["label"], answer["decision"]))
    if not rows:
        largest = f"{IMAGE_BYTES_MAX // 2**20} MiB"
        raise GateRefused(f"No picture is small enough for the server, which takes {largest}. Nothing was promoted.")
    return Served(places, np.array(rows, np.float32), decisions)


def check_load(bundle: Bundle, server: Server, limits: ServingLimits) -> dict[str, float]:
    """Four clients ask for golden images at once. Returns times of a request in ms, and the peak of memory in MB.

    Raises GateRefused when either is over its limit, or an answer differs from what the bundle expects.
    """
    golden = bundle.golden_images()

    def ask(i: int) -> float:
        data, expected_K = golden[i % len(golden)]
        begun = time.perf_counter()
        (answer,) = _predict(server.client, [data])
        ms = (time.perf_counter() - begun) * 1000
        given_K = _probabilities(bundle, answer, what=f"golden image {i % len(golden)} under load")
        _difference(np.array([given_K], np.float32), np.array([expected_K], np.float32), when=" under load")
        return ms

    done = threading.Event()
    with ThreadPoolExecutor(NUM_CLIENTS + 1) as pool:
        peak = pool.submit(_peak, server.started.memory_bytes, done)
        try:
            times = list(pool.map(ask, range(limits.load_requests)))
        finally:
            done.set()
    median, p95 = (float(np.percentile(times, q)) for q in (50, 95))
    found = {"median_ms": median, "p95_ms": p95, "memory_mb": peak.result() / 1e6}
    for name, limit in (("p95_ms", limits.p95_ms), ("memory_mb", limits.memory_mb)):
        if found[name] > limit:
            raise GateRefused(
                f"The server takes {found[name]:.1f} ({name}) with this model under {NUM_CLIENTS} clients; at most "
                f"{limit:g} is allowed. Nothing was promoted."
            )
    return found


def _peak(measure: Callable[[], int], done: threading.Event) -> int:
    """The largest of what is measured until `done`, and once after."""
    peak = measure()
    while not done.wait(SAMPLE_S):
        peak = max(peak, measure())
    return max(peak, measure())


def _difference(given_NK: Floats, expected_NK: Floats, *, when: str = "") -> float:
    """The largest between golden images' probabilities and those expected. GateRefused when it is too large."""
    worst = float(np.abs(given_NK - expected_NK).max())
    if not worst <= GOLDEN_MAX:
        raise GateRefused(
            f"The server answers its golden images{when} {worst:.2e} away from what the bundle expects; at most "
            f"{GOLDEN_MAX:.0e} is allowed. Nothing was promoted."
        )
    return worst


def _probabilities(bundle: Bundle, answer: dict[str, Any], *, what: str) -> list[float]:
    if "error" in answer:
        raise GateRefused(f"The server cannot answer {what}: {answer['error']} Nothing was promoted.")
    if answer.get("model_digest") != bundle.digest:
        raise GateRefused(f"The server names the model {answer.get('model_digest')}, not {bundle.digest}.")
    return [answer["probabilities"][c] for c in bundle.classes]


def _requests(pictures: Iterable[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    """Parts that one request may hold, of pictures with their places; those that are too large are left out."""
    part: list[tuple[int, bytes]] = []
    size = 0
    for i, data in enumerate(pictures):
        if len(data) > IMAGE_BYTES_MAX:
            continue
        if len(part) == IMAGES_AT_ONCE or (part and size + len(data) > BYTES_AT_ONCE):
            yield part
            part, size = [], 0
        part.append((i, data))
        size += len(data)
    if part:
        yield part


def _wait_ready(client: httpx.Client, started: Started) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and not started.ended():
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    ended = started.ended()
    what = f"ended with {ended}" if ended else f"was not ready within {READY_S:.0f} s"
    raise GateRefused(f"The server {what} with this bundle: {started.last_words()} Nothing was promoted.")


def _predict(client: httpx.Client, pictures: Sequence[bytes]) -> list[dict[str, Any]]:
    files = [("images", (f"{i}.png", data, "image/png")) for i, data in enumerate(pictures)]
    answer = client.post("/predict", files=files)
    if answer.status_code != 200:
        raise GateRefused(f"The server answered {answer.status_code}: {answer.text[:200]}. Nothing was promoted.")
    body = answer.json()
    found: list[dict[str, Any]] = body["predictions"] if isinstance(body, dict) else body
    return found
