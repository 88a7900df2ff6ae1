"""What the server keeps of its answers, and what people say of them."""

from __future__ import annotations

from uuid import uuid4

import httpx

from tests.unit.serving.conftest import FakeLedger, Serve, pictures
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel, ModelSlot


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
