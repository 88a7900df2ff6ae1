"""KServe's V2 protocol: what it describes is what it takes, and every error has the protocol's form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from tire_pipeline.bundle import Bundle
from tire_pipeline.imaging import decode, prepare
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel, ModelSlot, load_model

INFER = "/v2/models/tire-defect/infer"


@pytest.fixture
def model(make_bundle: Callable[..., Bundle]) -> LoadedModel:
    return replace(load_model(make_bundle(size=2).path), version=7)


@pytest.fixture
def client(model: LoadedModel, serve: Callable[..., httpx.Client]) -> httpx.Client:
    metrics = ServingMetrics()
    slot = ModelSlot("tire-defect", metrics)
    slot.swap(model)
    return serve(create_app(slot, metrics=metrics))


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "FP32", "shape": [1, 3, 2, 2], "data": [0.5] * 12, **changes}


def test_the_server_and_its_model_describe_themselves(client: httpx.Client, model: LoadedModel) -> None:
    assert client.get("/v2").json()["name"] == "tire-pipeline"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    facts = client.get("/v2/models/tire-defect").json()
    assert facts == client.get("/v2/models/tire-defect/versions/7").json()
    assert facts["versions"] == ["7"] and facts["parameters"]["model_digest"] == model.bundle.digest
    assert facts["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 2, 2]}]
    assert facts["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}]
    assert client.get("/v2/models/tire-defect/ready").json() == {"name": "tire-defect", "ready": True}


@pytest.mark.parametrize("path", [INFER, "/v2/models/tire-defect/versions/7/infer"])
def test_tensors_get_the_probabilities_of_the_named_model(
    client: httpx.Client, model: LoadedModel, red_png: bytes, green_png: bytes, path: str
) -> None:
    x_BCHW = np.stack([prepare(decode(p), model.bundle.preprocessing) for p in (red_png, green_png)])
    flat = {"id": "r1", "inputs": [tensor(shape=[2, 3, 2, 2], data=x_BCHW.ravel().tolist())]}
    nested = {"inputs": [tensor(shape=[2, 3, 2, 2], data=x_BCHW.tolist())], "outputs": [{"name": "probabilities"}]}
    answer = client.post(path, json=flat).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tire-defect", "7", "r1")
    assert answer["parameters"] == {"model_digest": model.bundle.digest}
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [2, 2])
    expected = model.session.probabilities(x_BCHW)
    assert np.allclose(np.reshape(output["data"], (2, 2)), expected, atol=1e-6)
    assert client.post(path, json=nested).json()["outputs"] == answer["outputs"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"inputs": {}}',
        b'{"inputs": []}',
        b'{"inputs": [1]}',
        b'{"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 3, 2, 2], "data": [NaN]}]}',
    ],
)
def test_a_body_that_is_no_inference_request_is_a_400(client: httpx.Client, body: bytes) -> None:
    answer = client.post(INFER, content=body)
    assert answer.status_code == 400 and list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "pixels"}, "pixels"),
        ({"datatype": "INT8"}, "FP32"),
        ({"shape": [1, 3, 4, 4]}, "[-1, 3, 2, 2]"),
        ({"shape": [3, 2, 2]}, "[-1, 3, 2, 2]"),
        ({"shape": None}, "[-1, 3, 2, 2]"),
        ({"shape": [0, 3, 2, 2], "data": []}, "1 to 32"),
        ({"shape": [33, 3, 2, 2]}, "1 to 32"),
        ({"shape": [True, 3, 2, 2]}, "1 to 32"),
        ({"data": [0.5] * 11}, "12 numbers"),
        ({"data": None}, "12 numbers"),
        ({"data": ["0.5"] * 12}, "12 numbers"),
        ({"data": [10**30] * 12}, "12 numbers"),
        ({"data": [True] * 12}, "12 numbers"),
        ({"data": [[0.5] * 5, [0.5] * 7]}, "rectangular"),
        ({"data": [1e39] * 12}, "infinite"),
    ],
)
def test_a_tensor_that_does_not_fit_is_a_400_that_says_what_would(
    client: httpx.Client, changes: dict[str, Any], says: str
) -> None:
    answer = client.post(INFER, json={"inputs": [tensor(**changes)]})
    assert answer.status_code == 400 and says in answer.json()["error"]


def test_an_output_that_does_not_exist_is_a_400(client: httpx.Client) -> None:
    answer = client.post(INFER, json={"inputs": [tensor()], "outputs": [{"name": "logits"}]})
    assert answer.status_code == 400 and "probabilities" in answer.json()["error"]


@pytest.mark.parametrize("path", ["other", "other/ready", "tire-defect/versions/6", "tire-defect/versions/x/ready"])
def test_models_and_versions_that_are_not_here_are_a_404(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/v2/models/{path}")
    assert answer.status_code == 404 and list(answer.json()) == ["error"]
    assert client.post("/v2/models/other/infer", json={"inputs": [tensor()]}).status_code == 404
