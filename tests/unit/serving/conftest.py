"""Real servers in a thread, and tiny real bundles: mean colour through a linear layer, so the right answer is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from fastapi import FastAPI
from onnx import TensorProto, helper

from tire_pipeline.bundle import Bundle, Session
from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.imaging import Preprocessing, encode_png, prepare
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.capture import Capture
from tire_pipeline.serving.connections import build_server
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel, ModelSlot, load_model
from tire_pipeline.serving.spool import Spool

LIMITS = Limits()
SMALL = Limits(max_images=4, max_image_bytes=50_000, max_body_bytes=200_000, max_pixels=1_000_000, max_in_flight=4)
CLASSES = ["defective", "good"]
MakeBundle = Callable[..., Bundle]
Serve = Callable[..., httpx.Client]


def solid(red: int, green: int, *, size: int = 24) -> np.ndarray:
    """One colour, (H, W, 3): red looks defective, green looks good."""
    return np.full((size, size, 3), (red, green, 0), np.uint8)


def write_model(path: Path, *, gain: float, size: int, batch: int | str = "B") -> None:
    """logits = gain · (mean red, mean green) of the normalised picture; `batch` is a name for any size."""
    weights = np.array([[gain, 0, 0], [0, gain, 0]], np.float32).T
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images", "axes"], ["means"], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        ],
        "colour",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 2])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
            helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.ravel()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Write a bundle; `gain` sets how sure it is, and so its digest. `lie` makes its golden answers wrong."""

    def make(
        name: str = "bundle", *, gain: float = 1.0, lie: float = 0.0, size: int = 16, resize: str = "stretch"
    ) -> Bundle:
        path = tmp_path / name
        path.mkdir()
        write_model(path / "model.onnx", gain=gain, size=size)
        bundle = Bundle(
            path=path,
            classes=CLASSES,
            positive_class="defective",
            preprocessing=Preprocessing(height=size, width=size, resize=resize),
            candidate="tiny",
            snapshot_digest="0" * 64,
            review_band=(0.4, 0.6),
        )
        pixels = [solid(200, 30), solid(30, 200)]
        x_BCHW = np.stack([prepare(p, bundle.preprocessing) for p in pixels])
        return bundle.with_golden(pixels, Session(bundle).probabilities(x_BCHW) + np.float32(lie)).save()

    return make


@pytest.fixture
def red_png() -> bytes:
    return encode_png(solid(220, 20))


@pytest.fixture
def green_png() -> bytes:
    return encode_png(solid(20, 220))


class Running:
    """A real server on a free port, in a thread; `stop` drains it."""

    def __init__(self, app: FastAPI, limits: Limits) -> None:
        self.server = build_server(app, limits=limits, host="127.0.0.1", port=0)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        deadline = time.monotonic() + 20
        while not self.server.started:
            assert time.monotonic() < deadline and self.thread.is_alive()
            time.sleep(0.005)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@contextmanager
def running(app: FastAPI, limits: Limits) -> Iterator[httpx.Client]:
    """A client of a real server, which is drained at the end."""
    server = Running(app, limits)
    try:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
            yield client
    finally:
        server.stop()


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda app, limits=LIMITS: stack.enter_context(running(app, limits))


class FakeLedger:
    """Knows the predictions it was given, and takes feedback on those alone."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.feedback: list[tuple[str, str, str]] = []
        self.away = False

    def record_predictions(self, rows: Sequence[dict[str, Any]]) -> None:
        if self.away:
            raise ServiceUnavailable("The ledger did not answer.")
        self.rows.update({row["prediction_id"]: row for row in rows})

    def record_feedback(self, prediction_id: str, label: str, source: str) -> None:
        if self.away:
            raise ServiceUnavailable("The ledger did not answer.")
        if prediction_id not in self.rows:
            raise InputError(f"There is no prediction {prediction_id}.")
        self.feedback.append((prediction_id, label, source))


@pytest.fixture
def metrics() -> ServingMetrics:
    return ServingMetrics()


@pytest.fixture
def slot(metrics: ServingMetrics) -> ModelSlot:
    return ModelSlot("tire-defect", metrics)


@pytest.fixture
def model(make_bundle: MakeBundle, slot: ModelSlot) -> LoadedModel:
    model = replace(load_model(make_bundle().path), version=7)
    slot.swap(model)
    return model


@pytest.fixture
def ledger() -> FakeLedger:
    return FakeLedger()


@pytest.fixture
def client(slot: ModelSlot, metrics: ServingMetrics, ledger: FakeLedger, tmp_path: Path, serve: Serve) -> httpx.Client:
    capture = Capture(ledger, Spool(tmp_path / "spool"), metrics=metrics)
    return serve(create_app(slot, metrics=metrics, limits=SMALL, capture=capture, threads=2))


def pictures(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{i}.png", data)) for i, data in enumerate(contents)]


@contextmanager
def held_up(stuck: Stuck, ask: Callable[[], httpx.Response]) -> Iterator[list[httpx.Response]]:
    """A request that has come as far as the session, and is let go at the end; the list holds its answer then."""
    answers: list[httpx.Response] = []
    request = threading.Thread(target=lambda: answers.append(ask()))
    request.start()
    assert stuck.reached.wait(10)
    try:
        yield answers
    finally:
        stuck.gate.set()
        request.join()


class Stuck:
    """A session that answers when it is let go."""

    def __init__(self, session: Any) -> None:
        self.session, self.reached, self.gate = session, threading.Event(), threading.Event()

    def probabilities(self, x_BCHW: Any) -> Any:
        self.reached.set()
        assert self.gate.wait(10)
        return self.session.probabilities(x_BCHW)
