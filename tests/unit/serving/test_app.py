"""The routes over real tiny bundles, in process."""

from __future__ import annotations

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client import generate_latest

from tests.unit.serving.conftest import FakeLedger, MakeBundle, Serve, pictures
from tire_pipeline.input_gate import fit_input_gate
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel, ModelSlot, load_model


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


ODD_CHARSETS = {
    "undefined": b"a.png",
    "utf-7": b"+2AA-",
    "unicode_escape": b"\\\\ud800",
    "raw_unicode_escape": b"\\\\ud800",
    "idna": b"a",
    "no-such": b"a",
}


@pytest.mark.parametrize(("path", "field"), [("/predict", b"images"), ("/explain", b"image")])
def test_a_form_in_an_odd_charset_is_a_400_and_nothing_is_kept_of_it(
    client: httpx.Client, model: LoadedModel, ledger: FakeLedger, red_png: bytes, path: str, field: bytes
) -> None:
    def answer(charset: str, filename: bytes) -> httpx.Response:
        head = b'--x\r\nContent-Disposition: form-data; name="' + field + b'"; filename="' + filename + b'"\r\n\r\n'
        kind = f"multipart/form-data; boundary=x; charset={charset}"
        return client.post(path, content=head + red_png + b"\r\n--x--\r\n", headers={"Content-Type": kind})

    for charset, filename in ODD_CHARSETS.items():
        refused = answer(charset, filename)
        assert refused.status_code == 400 and charset in refused.json()["error"]
    assert answer("UTF-8", "é.png".encode()).status_code == 200
    client.post("/feedback", json={"prediction_id": str(UUID(int=0)), "label": "good"})  # once all is written
    assert len(ledger.rows) == (path == "/predict")


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


def test_metrics_count_requests_by_version_and_code(client: httpx.Client, model: LoadedModel, red_png: bytes) -> None:
    client.post("/predict", files=pictures(red_png, red_png))
    client.post("/predict")
    text = client.get("/metrics").text
    assert 'inference_requests_total{code="200",version="7"} 1.0' in text
    assert 'inference_requests_total{code="400",version="none"} 1.0' in text
    assert 'inference_images_total{outcome="defective",version="7"} 2.0' in text
    assert "inference_duration_seconds_count 2.0" in text and "inference_batch_size_sum 2.0" in text
    assert f'digest="{model.bundle.digest}"' in text and "inference_queue_depth 0.0" in text


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
