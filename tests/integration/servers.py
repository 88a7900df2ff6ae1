"""`tire serve` as a process of its own before real stores, the registry that it follows, and clients under load."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper

from tire_pipeline.bundle import Bundle, Session
from tire_pipeline.imaging import Preprocessing, encode_png, prepare
from tire_pipeline.settings import Settings
from tire_pipeline.wiring import Services

DEADLINE_S = 60.0
RED = np.full((24, 24, 3), (220, 20, 0), np.uint8)
NOWHERE = "127.0.0.1:9"


def make_bundle(path: Path, *, gain: float, lie: float = 0.0) -> Bundle:
    """logits = gain · (mean red, mean green): `gain` changes what it answers, `lie` what it promises to answer."""
    path.mkdir(parents=True)
    weights = np.array([[gain, 0], [0, gain], [0, 0]], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colour",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["B", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 2])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
            helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.ravel()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path / "model.onnx")
    spec = Preprocessing(height=16, width=16)
    bundle = Bundle(path, ["defective", "good"], "defective", spec, candidate="tiny", snapshot_digest="0" * 64)
    expected = Session(bundle).probabilities(prepare(RED, spec)[None]) + np.float32(lie)
    return bundle.with_golden([RED], expected).save()


def until(condition: Callable[[], Any], what: str) -> Any:
    """The condition's first true value; a server that does not answer yet counts as not yet."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except httpx.TransportError:
            pass
        threading.Event().wait(0.02)
    raise AssertionError(f"not within {DEADLINE_S:.0f} s: {what}")


@dataclass
class Server:
    """A running `tire serve`."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    log: Path

    def predict(self, data: bytes = encode_png(RED)) -> httpx.Response:
        return self.client.post("/predict", files=[("images", ("red.png", data))])

    def version(self) -> int | None:
        answer = self.client.get("/readyz")
        return answer.json()["model_version"] if answer.status_code == 200 else None

    def wait_for(self, version: int) -> None:
        until(lambda: self.version() == version, f"version {version} answers")

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


@contextmanager
def started(settings: Settings, log: Path, *arguments: str, prefix: Sequence[str] = ()) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*prefix, sys.executable, "-m", "tire_pipeline", "--verbose", "serve", "--port", str(port), *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment(settings), stdout=out, stderr=out)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            server = Server(process, client, log)
            until(lambda: client.get("/healthz").status_code == 200, "the server answers")
            yield server
    finally:
        process.kill()
        process.wait()


def environment(settings: Settings) -> dict[str, str]:
    """Our own environment, with these settings in place of any other TIRE_*."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("TIRE_")}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        if text is not None:
            ours[f"TIRE_{name.upper()}"] = str(text)
    return ours


@dataclass
class Production:
    """The real registry, bucket and ledger, and the servers that follow them."""

    live: Services
    tmp: Path
    stack: ExitStack
    since: datetime = field(default_factory=lambda: datetime.now(UTC))

    def promote(self, name: str, bundle: Bundle, *, alias: str = "production") -> int:
        """Upload and register as the pipeline does, then move the alias."""
        prefix = f"runs/{name}/bundle/"
        self.live.objects.upload_folder(bundle.path, prefix)
        run_id = self.live.tracking.start_run(name, params={}, tags={})
        tags = {"tire.bundle": prefix, "tire.bundle_digest": bundle.digest}
        version = self.live.tracking.register(run_id=run_id, key=name, tags=tags).version
        self.live.tracking.set_alias(alias, version)
        return version

    def bundle(self, name: str, *, gain: float, lie: float = 0.0) -> Bundle:
        return make_bundle(self.tmp / name, gain=gain, lie=lie)

    def serve(self, *, prefix: Sequence[str] = (), **changes: Any) -> Server:
        """A server with these settings; `prefix` is a command that starts it."""
        settings = self.live.settings.model_copy(update=changes)
        log = self.tmp / f"serve{time.monotonic_ns()}.log"
        return self.stack.enter_context(started(settings, log, prefix=prefix))

    def serve_version(self, version: int, *, prefix: Sequence[str] = ()) -> Server:
        """A server that answers with this version already."""
        server = self.serve(prefix=prefix)
        server.wait_for(version)
        return server

    def recorded(self) -> list[dict[str, Any]]:
        return self.live.ledger.predictions_between(self.since, datetime.now(UTC) + timedelta(days=1))


@dataclass
class Load:
    """Clients that ask without pause until they are stopped; every answer and every failure is kept. Each request has a
    connection of its own unless they are kept."""

    server: Server
    keeps_connections: bool = True
    answers: list[dict[str, Any]] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        data, url = encode_png(RED), self.server.client.base_url
        limits = httpx.Limits(max_keepalive_connections=None if self.keeps_connections else 0)
        with httpx.Client(base_url=url, trust_env=False, timeout=30, limits=limits) as client:
            while not self.stopped.is_set():
                try:
                    answer = client.post("/predict", files=[("images", ("red.png", data))])
                except httpx.TransportError as error:
                    self.failures[type(error).__name__] += 1
                    self.stopped.wait(0.05)
                    continue
                if answer.status_code == 200:
                    self.answers.append(answer.json()["predictions"][0])
                else:
                    self.failures[str(answer.status_code)] += 1

    @property
    def lost(self) -> Counter[str]:
        """Requests without their answer, by what happened. A refused connection took no request. On a kept one the
        server may say goodbye while the client sends (RFC 9112, 9.5): unread, so it is in no record either."""
        goodbye = ("RemoteProtocolError", "ReadError", "WriteError") if self.keeps_connections else ()
        return Counter({how: n for how, n in self.failures.items() if how not in ("ConnectError", *goodbye)})

    @contextmanager
    def running(self, num_clients: int = 8) -> Iterator[None]:
        threads = [threading.Thread(target=self.run) for _ in range(num_clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()
