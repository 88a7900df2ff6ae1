"""The routes over real tiny bundles, in process."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from prometheus_client import generate_latest

from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.imaging import encode_png
from tire_pipeline.input_gate import fit_input_gate
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.capture import Capture
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel, ModelSlot, load_model
from tire_pipeline.serving.spool import Spool

MakeBundle = Callable[..., Bundle]
Serve = Callable[[FastAPI], httpx.Client]
LIMITS = Limits(max_images=4, max_image_bytes=50_000, max_body_bytes=200_000, max_pixels=1_000_000, max_in_flight=4)


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
    return serve(create_app(slot, metrics=metrics, limits=LIMITS, capture=capture, threads=2))


def pictures(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{i}.png", data)) for i, data in enumerate(contents)]


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_every_picture_gets_its_answer_in_the_order_sent(
    client: httpx.Client, model: LoadedModel, red_png: bytes, green_png: bytes
) -> None:
    answer = client.post("/predict", files=pictures(red_png, green_png, red_png))
    assert answer.status_code == 200
    predictions = answer.json()["predictions"]
    assert [p["filename"] for p in predictions] == ["0.png", "1.png", "2.png"]
    assert (
        [p["label"] for p in predictions] == [p["decision"] for p in predictions] == ["defective", "good", "defective"]
    )
    assert {(p["model_version"], p["model_digest"]) for p in predictions} == {(7, model.bundle.digest)}
    assert len({UUID(p["prediction_id"]) for p in predictions}) == 3
    for p in predictions:
        assert p["probability"] == p["probabilities"][p["label"]] > 0.9
        assert sum(p["probabilities"].values()) == pytest.approx(1) and "error" not in p


def test_a_bad_picture_has_an_error_and_the_others_their_answers(
    client: httpx.Client, model: LoadedModel, red_png: bytes
) -> None:
    answer = client.post("/predict", files=pictures(b"no picture", red_png, b"", red_png[:60]))
    assert answer.status_code == 200
    bad, good, empty, cut = answer.json()["predictions"]
    assert good["label"] == "defective"
    assert "no readable image" in bad["error"] and "label" not in bad
    assert "0 bytes" in empty["error"] and cut["error"]


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"no picture", "no readable image"), (png(2000, 600), "megapixels"), (bytes(50_001), "larger than")],
)
def test_a_picture_that_cannot_be_used_says_why(
    client: httpx.Client, model: LoadedModel, data: bytes, says: str
) -> None:
    answer = client.post("/predict", files=pictures(data))
    assert answer.status_code == 200
    assert says in answer.json()["predictions"][0]["error"]


def test_a_very_long_picture_does_not_break_the_server(client: httpx.Client, model: LoadedModel) -> None:
    assert client.post("/predict", files=pictures(png(40_000, 20))).status_code == 200


def test_a_picture_that_is_not_fit_to_be_judged_is_for_review_and_says_what_to_do(
    client: httpx.Client, slot: ModelSlot, model: LoadedModel, red_png: bytes, ledger: FakeLedger
) -> None:
    gate = fit_input_gate(
        np.random.default_rng(0).integers(90, 110, (9, 16, 16, 3), np.uint8), np.arange(6), np.arange(9)
    )
    slot.swap(replace(model, bundle=replace(model.bundle, input_gate=replace(gate, side_min=30))))
    (answer,) = client.post("/predict", files=pictures(red_png)).json()["predictions"]
    assert (answer["label"], answer["decision"], answer["reason"]) == ("defective", "review", "retake")
    assert "too small (24 × 24, needed 30 a side)" in answer["retake"]
    text = client.get("/metrics").text
    assert 'inference_retakes_total{why="small"} 1.0' in text
    assert 'inference_images_total{outcome="review",version="7"} 1.0' in text
    client.post("/feedback", json={"prediction_id": answer["prediction_id"], "label": "good"})
    assert ledger.rows[answer["prediction_id"]]["decision"] == "review"


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"json": {"images": []}},
        {"data": {"images": "text"}},
        {"files": [("pictures", ("a.png", b"x"))]},
        {"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}},
        {"content": b"garbage", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    ],
)
def test_a_request_that_is_no_form_with_pictures_is_a_400(
    client: httpx.Client, model: LoadedModel, request_: dict[str, Any]
) -> None:
    answer = client.post("/predict", **request_)
    assert answer.status_code == 400 and answer.json()["error"]


def test_too_many_pictures_are_refused(client: httpx.Client, model: LoadedModel, red_png: bytes) -> None:
    answer = client.post("/predict", files=pictures(*[red_png] * 5))
    assert answer.status_code == 400 and "4" in answer.json()["error"]


def test_too_large_a_body_is_refused_whether_it_says_so_or_not(client: httpx.Client, model: LoadedModel) -> None:
    declared = client.post("/predict", files=pictures(bytes(200_001)))
    start = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    chunks = [start, *[bytes(50_000)] * 5]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    chunked = client.post("/predict", content=iter(chunks), headers=headers)
    v2 = client.post("/v2/models/tire-defect/infer", content=iter(chunks))
    for answer in (declared, chunked, v2):
        assert answer.status_code == 413 and "larger than" in answer.json()["error"]


def test_a_client_that_sends_too_slowly_is_cut_off(
    slot: ModelSlot, metrics: ServingMetrics, model: LoadedModel, serve: Serve
) -> None:
    client = serve(create_app(slot, metrics=metrics, limits=Limits(body_timeout_s=0.2)))
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection:
        connection.sendall(b"POST /v2/models/tire-defect/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        answer = connection.makefile("rb").read()  # ends when the server closes the connection
    assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive within 0.2 seconds" in answer


def test_before_the_first_promotion_everything_but_the_model_answers(client: httpx.Client, red_png: bytes) -> None:
    for answer in (
        client.post("/predict", files=pictures(red_png)),
        client.get("/readyz"),
        client.get("/model"),
        client.get("/v2/models/tire-defect"),
        client.post("/v2/models/tire-defect/infer", json={}),
    ):
        assert answer.status_code == 503
        assert answer.json()["error"].startswith("No model is in production yet; ")
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/healthz").status_code == client.get("/v2/health/live").status_code == 200
    assert client.get("/").status_code == client.get("/docs").status_code == client.get("/metrics").status_code == 200


def test_predictions_are_captured_with_what_monitoring_needs(
    client: httpx.Client, model: LoadedModel, ledger: FakeLedger, red_png: bytes
) -> None:
    answer = client.post("/predict", files=pictures(red_png, b"bad")).json()["predictions"]
    client.post("/feedback", json={"prediction_id": answer[0]["prediction_id"], "label": "good"})
    good, bad = (ledger.rows[p["prediction_id"]] for p in answer)
    assert (good["label"], good["model_version"], good["model_digest"]) == ("defective", 7, model.bundle.digest)
    assert (good["width"], good["height"], good["error"]) == (24, 24, None)
    assert good["at"].tzinfo and good["latency_ms"] > 0 and 0 < good["brightness"] < 255 and good["sharpness"] == 0
    assert bad["label"] is None and "no readable image" in bad["error"] and len(bad["sha256"]) == 64


def test_feedback_is_known_the_moment_after_the_answer(
    client: httpx.Client, model: LoadedModel, ledger: FakeLedger, red_png: bytes
) -> None:
    prediction_id = client.post("/predict", files=pictures(red_png)).json()["predictions"][0]["prediction_id"]
    body = {"prediction_id": prediction_id, "label": "good", "source": "page"}
    answer = client.post("/feedback", json=body)
    assert answer.status_code == 200 and answer.json() == body
    assert ledger.feedback == [(prediction_id, "good", "page")]


def test_feedback_that_cannot_be_right_is_refused_in_words(client: httpx.Client, model: LoadedModel) -> None:
    def give(**body: str) -> tuple[int, str]:
        answer = client.post("/feedback", json=body)
        return answer.status_code, answer.json()["error"]

    known = str(uuid4())
    assert give(prediction_id=known, label="good") == (404, f"There is no prediction {known}.")
    code, text = give(prediction_id=known, label="round")
    assert code == 400 and "defective, good" in text
    code, text = give(prediction_id="seven", label="good")
    assert code == 422 and "prediction_id" in text
    assert give(label="good")[0] == 422


def test_feedback_while_the_ledger_is_away_is_a_503(
    client: httpx.Client, model: LoadedModel, ledger: FakeLedger, red_png: bytes
) -> None:
    ledger.away = True
    assert client.post("/predict", files=pictures(red_png)).status_code == 200
    assert client.post("/feedback", json={"prediction_id": str(uuid4()), "label": "good"}).status_code == 503


def test_a_server_without_a_ledger_answers_and_says_that_it_keeps_no_feedback(
    slot: ModelSlot, metrics: ServingMetrics, model: LoadedModel, red_png: bytes, serve: Serve
) -> None:
    client = serve(create_app(slot, metrics=metrics))
    assert client.post("/predict", files=pictures(red_png)).status_code == 200
    assert client.get("/model").json()["feedback"] is False
    answer = client.post("/feedback", json={"prediction_id": str(uuid4()), "label": "good"})
    assert answer.status_code == 503 and "no ledger" in answer.json()["error"]


def test_metrics_count_requests_by_version_and_code(client: httpx.Client, model: LoadedModel, red_png: bytes) -> None:
    client.post("/predict", files=pictures(red_png, red_png))
    client.post("/predict")
    text = client.get("/metrics").text
    assert 'inference_requests_total{code="200",version="7"} 1.0' in text
    assert 'inference_requests_total{code="400",version="none"} 1.0' in text
    assert 'inference_images_total{outcome="defective",version="7"} 2.0' in text
    assert "inference_duration_seconds_count 2.0" in text and "inference_batch_size_sum 2.0" in text
    assert f'digest="{model.bundle.digest}"' in text and "inference_queue_depth 0.0" in text


class Stuck:
    """A session that answers when it is let go."""

    def __init__(self, session: Any) -> None:
        self.session, self.reached, self.gate = session, threading.Event(), threading.Event()

    def probabilities(self, x_BCHW: Any) -> Any:
        self.reached.set()
        assert self.gate.wait(10)
        return self.session.probabilities(x_BCHW)


def test_the_map_shows_where_the_probability_comes_from(
    client: httpx.Client, slot: ModelSlot, model: LoadedModel
) -> None:
    pixels = np.full((40, 40, 3), (20, 220, 0), np.uint8)
    pixels[:20, :20] = (250, 0, 0)  # the only red that there is
    answer = client.post("/explain", files={"image": ("a.png", encode_png(pixels))}, data={"label": "defective"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    rows = np.array(body["map"])
    assert rows.shape == (8, 8) and body["label"] == "defective" and body["model_digest"] == model.bundle.digest
    assert rows[:4, :4].mean() > 0.02 and rows[5:, 5:].max() <= 0 and rows.argmax() in (0, 1, 2, 8, 9, 10, 16, 17, 18)
    without_label = client.post("/explain", files={"image": ("a.png", encode_png(pixels))}).json()
    assert without_label["label"] == "good"


@pytest.mark.parametrize(
    ("files", "data", "says"),
    [
        ({}, {}, "field `image`"),
        ({"image": ("a.png", b"no picture")}, {}, "no readable image"),
        ({"image": ("a.png", encode_png(np.zeros((8, 8, 3), np.uint8)))}, {"label": "round"}, "defective, good"),
    ],
)
def test_a_map_that_cannot_be_made_is_a_400_that_says_why(
    client: httpx.Client, model: LoadedModel, files: Any, data: dict[str, str], says: str
) -> None:
    answer = client.post("/explain", files=files, data=data)
    assert answer.status_code == 400 and says in answer.json()["error"]


def test_only_one_map_is_made_at_a_time(
    client: httpx.Client, slot: ModelSlot, model: LoadedModel, red_png: bytes
) -> None:
    stuck = Stuck(model.session)
    slot.swap(replace(model, session=stuck))  # type: ignore[arg-type]
    first: list[httpx.Response] = []
    request = threading.Thread(target=lambda: first.append(client.post("/explain", files={"image": ("a", red_png)})))
    request.start()
    assert stuck.reached.wait(10)
    second = client.post("/explain", files={"image": ("a", red_png)})
    stuck.gate.set()
    request.join()
    assert second.status_code == 429 and second.headers["Retry-After"] == "1"
    assert first[0].status_code == 200


def test_over_the_bound_requests_are_refused_at_once_and_those_admitted_are_answered(
    client: httpx.Client, slot: ModelSlot, model: LoadedModel, red_png: bytes
) -> None:
    stuck = Stuck(model.session)
    slot.swap(replace(model, session=stuck))  # type: ignore[arg-type]
    admitted: list[httpx.Response] = []
    request = threading.Thread(target=lambda: admitted.append(client.post("/predict", files=pictures(*[red_png] * 4))))
    request.start()
    assert stuck.reached.wait(10)
    refused = client.post("/predict", files=pictures(red_png))
    stuck.gate.set()
    request.join()
    assert refused.status_code == 429 and refused.headers["Retry-After"] == "1" and "busy" in refused.json()["error"]
    assert admitted[0].status_code == 200
    assert client.post("/predict", files=pictures(red_png)).status_code == 200


def test_over_its_number_of_requests_the_server_refuses_before_it_reads(
    slot: ModelSlot, metrics: ServingMetrics, model: LoadedModel, red_png: bytes, serve: Serve
) -> None:
    stuck = Stuck(model.session)
    slot.swap(replace(model, session=stuck))  # type: ignore[arg-type]
    client = serve(create_app(slot, metrics=metrics, limits=replace(LIMITS, max_requests=1)))
    admitted: list[httpx.Response] = []
    request = threading.Thread(target=lambda: admitted.append(client.post("/predict", files=pictures(red_png))))
    request.start()
    assert stuck.reached.wait(10)
    address = (client.base_url.host, client.base_url.port or 0)
    with socket.create_connection(address, timeout=20) as connection:  # sends no body at all
        connection.sendall(b"POST /v2/models/tire-defect/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 429")
    refused = client.post("/predict", files=pictures(red_png))
    others = [client.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/model")]
    stuck.gate.set()
    request.join()
    assert refused.status_code == 429 and refused.headers["Retry-After"] == "1" and "busy" in refused.json()["error"]
    assert others == [200] * 4 and admitted[0].status_code == 200
    assert client.post("/predict", files=pictures(red_png)).status_code == 200


class Broken:
    """A session that gives what no model should."""

    def __init__(self, fill: float | None) -> None:
        self.fill = fill

    def probabilities(self, x_BCHW: Any) -> Any:
        if self.fill is None:
            raise RuntimeError("secret internals")
        return np.full((len(x_BCHW), 2), self.fill, np.float32)


@pytest.mark.parametrize("fill", [np.nan, np.inf, None])
def test_a_model_that_breaks_is_a_500_without_its_internals(
    slot: ModelSlot, metrics: ServingMetrics, model: LoadedModel, red_png: bytes, serve: Serve, fill: float | None
) -> None:
    slot.swap(replace(model, session=Broken(fill)))  # type: ignore[arg-type]
    answer = serve(create_app(slot, metrics=metrics)).post("/predict", files=pictures(red_png))
    assert answer.status_code == 500
    assert "secret" not in answer.text and answer.json()["error"].endswith(".")


def test_paths_that_do_not_exist_are_answered_in_the_same_form(client: httpx.Client) -> None:
    assert client.get("/nowhere").json() == {"error": "GET /nowhere does not exist here; /docs lists what does."}
    assert client.get("/predict").status_code == 405 and "does not exist" in client.get("/predict").json()["error"]


def test_the_pages_load_nothing_from_elsewhere(client: httpx.Client) -> None:
    for path in ("/", "/docs"):
        answer = client.get(path)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "https://" not in answer.text and "src=" not in answer.text
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/predict", "/feedback", "/v2/models/{name}/infer"} <= set(paths)
    assert json.dumps(paths["/predict"]["post"]["requestBody"]).count("binary") == 1


def test_swapping_the_model_under_load_fails_no_request_and_every_answer_is_of_the_model_it_names(
    slot: ModelSlot, metrics: ServingMetrics, make_bundle: MakeBundle, red_png: bytes, serve: Serve
) -> None:
    models = [replace(load_model(make_bundle(f"m{i}", gain=1 + i).path), version=i) for i in range(3)]
    slot.swap(models[0])
    client = serve(create_app(slot, metrics=metrics, threads=2))
    expected = {}
    for model in models:
        slot.swap(model)
        expected[model.bundle.digest] = client.post("/predict", files=pictures(red_png)).json()["predictions"][0]

    def ask(i: int) -> httpx.Response:
        slot.swap(models[i % 3])
        return client.post("/predict", files=pictures(red_png))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(200)))
    assert {answer.status_code for answer in answers} == {200}
    seen = [answer.json()["predictions"][0] for answer in answers]
    assert {p["model_version"] for p in seen} == {0, 1, 2}
    for p in seen:
        truth = expected[p["model_digest"]]
        assert p["model_version"] == truth["model_version"]
        assert p["probabilities"] == pytest.approx(truth["probabilities"], abs=1e-5)


def test_with_keys_only_probes_and_pages_are_open(
    slot: ModelSlot, metrics: ServingMetrics, model: LoadedModel, red_png: bytes, serve: Serve
) -> None:
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in ("first-key", "second-key")]
    client = serve(create_app(slot, metrics=metrics, api_keys=digests))

    def code(authorization: str | None) -> int:
        headers = {} if authorization is None else {"Authorization": authorization}
        return client.post("/predict", files=pictures(red_png), headers=headers).status_code

    assert code("Bearer first-key") == code("bearer second-key") == 200
    for wrong in (None, "", "Bearer", "Bearer third-key", "Basic first-key", "first-key", digests[0]):
        assert code(wrong) == 401
    assert code(f"Bearer {digests[0]}") == 401
    for path in ("/", "/docs", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/openapi.json"):
        assert client.get(path).status_code == 200
    for path in ("/metrics", "/model", "/v2", "/v2/models/tire-defect", "/nowhere"):
        answer = client.get(path)
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
        assert "Authorization: Bearer KEY" in answer.json()["error"]
    answer = client.post("/v2/models/tire-defect/infer", json={})
    assert answer.status_code == 401
    assert 'inference_requests_total{code="401",version="none"}' in generate_latest(metrics.registry).decode()
