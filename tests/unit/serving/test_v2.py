"""KServe's V2 protocol: what it describes is what it takes, and every error has the protocol's form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as tritonclient
from tritonclient.utils import InferenceServerException

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
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
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
        ({"shape": [1, 3.0, 2, 2]}, "[-1, 3, 2, 2]"),
        ({"shape": [1, 3, 2, 2.0]}, "[-1, 3, 2, 2]"),
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
        ({"data": [3e38] * 12}, "may overflow"),
    ],
)
def test_a_tensor_that_does_not_fit_is_a_400_that_says_what_would(
    client: httpx.Client, changes: dict[str, Any], says: str
) -> None:
    answer = client.post(INFER, json={"inputs": [tensor(**changes)]})
    assert answer.status_code == 400 and says in answer.json()["error"]


@pytest.mark.parametrize("filler", ["[]", "{}", '"ab"', "300", "0.5"])
def test_json_that_holds_more_than_the_model_takes_is_refused_before_it_is_parsed(
    client: httpx.Client, filler: str
) -> None:
    body = '{"inputs": [' + ",".join([filler] * 300_000) + "]}"
    answer = client.post(INFER, content=body)
    assert answer.status_code == 400 and "more than 32 images of [3, 2, 2]" in answer.json()["error"]


def test_the_largest_tensor_is_taken_as_nested_json(client: httpx.Client) -> None:
    data = np.full((32, 3, 2, 2), -0.1234567890123456).tolist()
    body = json.dumps({"inputs": [tensor(shape=[32, 3, 2, 2], data=data)]}, indent=8)
    assert client.post(INFER, content=body).json()["outputs"][0]["shape"] == [32, 2]


def test_an_output_that_does_not_exist_is_a_400(client: httpx.Client) -> None:
    answer = client.post(INFER, json={"inputs": [tensor()], "outputs": [{"name": "logits"}]})
    assert answer.status_code == 400 and "probabilities" in answer.json()["error"]


@pytest.mark.parametrize("path", ["other", "other/ready", "tire-defect/versions/6", "tire-defect/versions/x/ready"])
def test_models_and_versions_that_are_not_here_are_a_404(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/v2/models/{path}")
    assert answer.status_code == 404 and list(answer.json()) == ["error"]
    assert client.post("/v2/models/other/infer", json={"inputs": [tensor()]}).status_code == 404


def raw_request(values: np.ndarray, **changes: Any) -> tuple[bytes, dict[str, str]]:
    """The body of a request with a raw tensor, and the header that says where it starts."""
    announced = {"binary_data_size": values.nbytes, **changes}
    record = {"name": "images", "datatype": "FP32", "shape": [len(values), 3, 2, 2], "parameters": announced}
    header = json.dumps({"inputs": [record]}).encode()
    return header + values.tobytes(), {"Inference-Header-Content-Length": str(len(header))}


def test_a_raw_tensor_gets_the_answer_of_the_same_numbers_in_json(client: httpx.Client) -> None:
    values = np.linspace(-1, 1, 24, dtype="<f4").reshape(2, 3, 2, 2)
    body, headers = raw_request(values)
    raw = client.post(INFER, content=body, headers=headers)
    plain = client.post(INFER, json={"inputs": [tensor(shape=[2, 3, 2, 2], data=values.ravel().tolist())]})
    assert raw.status_code == 200 and raw.json()["outputs"] == plain.json()["outputs"]
    wanted = client.post(INFER, json={"inputs": [tensor()], "parameters": {"binary_data_output": True}})
    length = int(wanted.headers["Inference-Header-Content-Length"])
    assert wanted.headers["Content-Type"] == "application/octet-stream"
    (output,) = json.loads(wanted.content[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 8} and "data" not in output
    assert np.frombuffer(wanted.content[length:], "<f4").sum() == pytest.approx(1)


@pytest.mark.parametrize("announced", [47, 0, -48, "48", None, 10**12])
def test_a_raw_tensor_of_another_size_than_it_announces_is_a_400(client: httpx.Client, announced: Any) -> None:
    body, headers = raw_request(np.zeros((1, 3, 2, 2), "<f4"), binary_data_size=announced)
    answer = client.post(INFER, content=body, headers=headers)
    assert answer.status_code == 400 and "48 bytes must" in answer.json()["error"]


@pytest.mark.parametrize("length", ["x", "-1", "1.5", "9999", "9" * 5000, ""])
def test_a_header_length_that_cannot_be_right_is_a_400(client: httpx.Client, length: str) -> None:
    body, _ = raw_request(np.zeros((1, 3, 2, 2), "<f4"))
    answer = client.post(INFER, content=body, headers={"Inference-Header-Content-Length": length})
    assert answer.status_code == 400 and answer.json()["error"]


def test_raw_bytes_that_are_no_numbers_are_a_400(client: httpx.Client) -> None:
    body, headers = raw_request(np.full((1, 3, 2, 2), np.nan, "<f4"))
    answer = client.post(INFER, content=body, headers=headers)
    assert answer.status_code == 400 and "not a number" in answer.json()["error"]


def test_what_is_not_offered_is_refused_in_words(client: httpx.Client) -> None:
    packed = client.post(INFER, content=b"{}", headers={"Content-Encoding": "gzip"})
    assert packed.status_code == 415 and "gzip" in packed.json()["error"]
    ranked = [{"name": "probabilities", "parameters": {"classification": 2}}]
    answer = client.post(INFER, json={"inputs": [tensor()], "outputs": ranked})
    assert answer.status_code == 400 and "classification" in answer.json()["error"]


@pytest.fixture
def triton(client: httpx.Client) -> Iterator[Any]:
    with tritonclient.InferenceServerClient(client.base_url.netloc.decode()) as made:
        yield made


@pytest.mark.parametrize(("raw_input", "raw_output"), [(True, True), (True, False), (False, True), (False, False)])
def test_tritons_own_client_gets_the_models_answers(
    triton: Any, model: LoadedModel, raw_input: bool, raw_output: bool
) -> None:
    x_BCHW = np.random.default_rng(0).normal(size=(3, 3, 2, 2)).astype(np.float32)
    given = tritonclient.InferInput("images", list(x_BCHW.shape), "FP32")
    given.set_data_from_numpy(x_BCHW, binary_data=raw_input)
    outputs = [tritonclient.InferRequestedOutput("probabilities", binary_data=raw_output)]
    for asked in (outputs, None):
        answer = triton.infer("tire-defect", [given], outputs=asked, model_version="7", request_id="r9")
        assert np.allclose(answer.as_numpy("probabilities"), model.session.probabilities(x_BCHW), atol=1e-6)
        assert answer.get_response()["id"] == "r9" and answer.get_response()["model_version"] == "7"


def test_tritons_own_client_finds_the_server_as_it_expects_it(triton: Any) -> None:
    assert triton.is_server_live() and triton.is_server_ready()
    assert triton.is_model_ready("tire-defect") and triton.is_model_ready("tire-defect", "7")
    assert not triton.is_model_ready("other")
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = triton.get_model_metadata("tire-defect")
    assert metadata["inputs"][0]["shape"] == [-1, 3, 2, 2] and metadata["platform"] == "onnxruntime"


def test_no_client_can_have_a_model_loaded(triton: Any, client: httpx.Client, model: LoadedModel) -> None:
    config = json.dumps({"backend": "onnxruntime", "default_model_filename": "/tmp/model.onnx"})
    with pytest.raises(InferenceServerException, match="does not exist here"):
        triton.load_model("tire-defect", config=config, files={"file:1/model.onnx": b"model"})
    with pytest.raises(InferenceServerException, match="does not exist here"):
        triton.unload_model("tire-defect")
    for path in ("file:///etc/passwd", "http://127.0.0.1:9/model.onnx", "../../other"):
        answer = client.post(INFER, json={"inputs": [tensor()], "parameters": {"model": path, "uri": path}})
        assert answer.json()["parameters"]["model_digest"] == model.bundle.digest
        assert client.post(f"/v2/models/{path}/infer", json={"inputs": [tensor()]}).status_code in (404, 405)
    routes = client.get("/openapi.json").json()["paths"]
    assert not [path for path in routes if "load" in path or "repository" in path]
