"""The serving process as `tire serve` starts it, before real PostgreSQL, S3 and MLflow, asked over real HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tire_pipeline.bundle import Bundle, Session
from tire_pipeline.imaging import Preprocessing, encode_png, prepare
from tire_pipeline.settings import Settings
from tire_pipeline.stores.ledger import migrate
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
def started(settings: Settings, log: Path, *arguments: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tire_pipeline", "--verbose", "serve", "--port", str(port), *arguments]
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

    def promote(self, name: str, bundle: Bundle) -> int:
        """Upload and register as the pipeline does, then move the alias."""
        prefix = f"runs/{name}/bundle/"
        self.live.objects.upload_folder(bundle.path, prefix)
        run_id = self.live.tracking.start_run(name, params={}, tags={})
        tags = {"tire.bundle": prefix, "tire.bundle_digest": bundle.digest}
        version = self.live.tracking.register(run_id=run_id, key=name, tags=tags).version
        self.live.tracking.set_alias("production", version)
        return version

    def bundle(self, name: str, *, gain: float, lie: float = 0.0) -> Bundle:
        return make_bundle(self.tmp / name, gain=gain, lie=lie)

    def serve(self, **changes: Any) -> Server:
        settings = self.live.settings.model_copy(update=changes)
        return self.stack.enter_context(started(settings, self.tmp / f"serve{time.monotonic_ns()}.log"))

    def serve_version(self, version: int) -> Server:
        """A server that answers with this version already."""
        server = self.serve()
        server.wait_for(version)
        return server

    def recorded(self) -> list[dict[str, Any]]:
        return self.live.ledger.predictions_between(self.since, datetime.now(UTC) + timedelta(days=1))


@pytest.fixture
def production(live: Services, tmp_path: Path) -> Iterator[Production]:
    assert live.settings.ledger_url
    migrate(live.settings.ledger_url.get_secret_value())
    with ExitStack() as stack:
        yield Production(live, tmp_path, stack)


@dataclass
class Load:
    """Clients that ask without pause until they are stopped; every answer and every failure is kept."""

    server: Server
    answers: list[dict[str, Any]] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        data = encode_png(RED)
        with httpx.Client(base_url=self.server.client.base_url, trust_env=False, timeout=30) as client:
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


def test_the_server_waits_for_the_first_promotion_then_answers_records_and_takes_feedback(
    production: Production,
) -> None:
    server = production.serve()
    refused = server.predict()
    assert refused.status_code == 503 and refused.json()["error"].startswith("No model is in production yet; ")
    bundle = production.bundle("one", gain=1)
    version = production.promote("one", bundle)
    server.wait_for(version)
    (prediction,) = server.predict().json()["predictions"]
    assert (prediction["label"], prediction["model_digest"]) == ("defective", bundle.digest)
    assert server.predict(b"no image").json()["predictions"][0]["error"]
    given = server.client.post("/feedback", json={"prediction_id": prediction["prediction_id"], "label": "good"})
    assert given.status_code == 200, given.text
    rows = {row["error"] is None: row for row in production.recorded()}
    assert rows[True]["prediction_id"] == prediction["prediction_id"] and rows[True]["width"] == 24
    assert "no readable image" in rows[False]["error"]


def test_a_promotion_under_load_fails_no_request_and_every_answer_is_of_the_model_it_names(
    production: Production,
) -> None:
    bundles = [production.bundle(f"m{i}", gain=1 + i) for i in range(3)]
    server = production.serve_version(production.promote("m0", bundles[0]))
    load = Load(server)
    with load.running():
        for i in (1, 2):
            server.wait_for(production.promote(f"m{i}", bundles[i]))
        enough = len(load.answers) + 200
        until(lambda: len(load.answers) >= enough, "200 more answers")
    assert not load.failures
    truth = {b.digest: float(Session(b).probabilities(prepare(RED, b.preprocessing)[None])[0, 0]) for b in bundles}
    assert {a["model_digest"] for a in load.answers} == set(truth)
    for answer in load.answers:
        assert answer["probabilities"]["defective"] == pytest.approx(truth[answer["model_digest"]], abs=1e-5)


def test_a_bundle_that_lies_is_refused_and_the_old_one_goes_on(production: Production) -> None:
    good = production.promote("good", production.bundle("good", gain=1))
    server = production.serve_version(good)
    production.promote("lying", production.bundle("lying", gain=2, lie=0.01))
    until(lambda: "model_refused_total 1.0" in server.client.get("/metrics").text, "the refusal is counted")
    assert server.version() == good and server.predict().json()["predictions"][0]["model_version"] == good
    assert "off what it promises" in server.log.read_text()


def test_the_server_starts_without_its_stores_and_hands_over_later_what_it_predicted(production: Production) -> None:
    version = production.promote("one", production.bundle("one", gain=1))
    assert production.serve_version(version).terminate() == 0
    away = {
        "mlflow_url": f"http://{NOWHERE}",
        "s3_endpoint_url": f"http://{NOWHERE}",
        "ledger_url": type(production.live.settings.ledger_url)(f"postgresql+psycopg2://nobody@{NOWHERE}/x"),
    }
    alone = production.serve(**away)
    assert alone.version() == version
    answers = [alone.predict().json()["predictions"][0] for _ in range(20)]
    assert alone.terminate() == 0
    assert production.recorded() == []
    production.serve()
    until(lambda: len(production.recorded()) == 20, "the predictions are handed over")
    assert {row["prediction_id"] for row in production.recorded()} == {a["prediction_id"] for a in answers}


def test_sigterm_under_load_loses_no_accepted_request_and_no_prediction(production: Production) -> None:
    server = production.serve_version(production.promote("one", production.bundle("one", gain=1)))
    load = Load(server)
    with load.running():
        until(lambda: len(load.answers) >= 100, "100 answers")
        assert server.terminate() == 0
    assert set(load.failures) <= {"ConnectError", "RemoteProtocolError", "ReadError"}, load.failures
    recorded = {row["prediction_id"] for row in production.recorded()}
    assert {a["prediction_id"] for a in load.answers} <= recorded
    assert not list((production.live.settings.home / "serving" / "spool").glob("*"))


def test_a_bundle_folder_is_served_alone_and_the_process_stays_small(live: Services, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", gain=1)
    settings = Settings(home=tmp_path / "home", project=live.settings.project)
    with started(settings, tmp_path / "log", "--bundle", str(bundle.path)) as server:
        (answer,) = server.predict().json()["predictions"]
        assert (answer["model_version"], answer["model_digest"]) == (0, bundle.digest)
        assert server.client.get("/model").json()["feedback"] is False
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        rss_mb = int(status.split("VmRSS:")[1].split()[0]) / 1024
        assert rss_mb < 200
        assert "torch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
        assert server.terminate() == 0
    assert not (settings.home / "serving").exists()


def test_a_folder_that_is_no_bundle_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tire_pipeline", "serve", "--bundle", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 2
    assert "is no bundle" in done.stderr and "Traceback" not in done.stderr
