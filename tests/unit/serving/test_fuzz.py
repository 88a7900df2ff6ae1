"""Requests nobody thought of, made from the server's own description (schemathesis) and from good requests with one
thing changed: none is the server's fault."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from encodings.aliases import aliases
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from tire_pipeline.bundle import Bundle
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.capture import Capture
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import ModelSlot, load_model
from tire_pipeline.serving.spool import Spool


class Ledger:
    """Takes everything."""

    def record_predictions(self, rows: Sequence[dict[str, Any]]) -> None: ...
    def record_feedback(self, prediction_id: str, label: str, source: str) -> None: ...


@pytest.fixture
def client(make_bundle: Callable[..., Bundle], serve: Callable[..., httpx.Client], tmp_path: Path) -> httpx.Client:
    metrics = ServingMetrics()
    slot = ModelSlot("tire-defect", metrics)
    slot.swap(load_model(make_bundle(size=2).path))
    capture = Capture(Ledger(), Spool(tmp_path / "spool"), metrics=metrics)
    return serve(create_app(slot, metrics=metrics, capture=capture))


@pytest.fixture
def api(client: httpx.Client) -> Any:
    return schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")


def few(n: int) -> Any:
    """As few as CI has time for, the same every time; `make soak` tries a hundred times as many, others every time."""
    many = pytest.param(100 * n, marks=[pytest.mark.soak, pytest.mark.timeout(3000)])
    return pytest.mark.parametrize("examples", [n, many], ids=["few", "many"])


def relaxed(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 1000,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@few(20)
def test_no_request_is_the_servers_fault(api: Any, examples: int) -> None:
    """Half of the requests fit the description, half do not."""
    tried = Counter[str]()

    def ask(case: Any) -> None:
        if case.path_parameters and "name" in case.path_parameters and tried[case.path] % 5:
            case.path_parameters["name"] = "tire-defect"  # any other is a 404, which is seen often enough
        tried[case.path] += 1
        case.call_and_validate(checks=[not_a_server_error, response_schema_conformance])

    for operation in api.get_all_operations():
        cases = st.one_of(operation.ok().as_strategy(mode) for mode in GenerationMode)
        relaxed(examples)(given(case=cases)(ask))()
    assert {"/predict", "/explain", "/feedback", "/v2/models/{name}/infer", "/metrics"} <= set(tried)
    assert sum(tried.values()) > 5 * len(tried)


def tensor_request() -> dict[str, Any]:
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, 3, 2, 2], "data": [0.5] * 12, "parameters": {}}
    return {"id": "1", "inputs": [tensor], "outputs": [{"name": "probabilities"}], "parameters": {}}


PLACES = [
    *(("inputs", 0, "shape", i) for i in range(4)),
    *(("inputs", 0, name) for name in tensor_request()["inputs"][0]),
    ("inputs", 0, "data", 5),
    ("inputs", 0, "parameters", "binary_data_size"),
    ("outputs", 0, "name"),
    ("outputs", 0, "parameters"),
    *((name,) for name in tensor_request()),
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([48, 10**400])
JSON = st.recursive(SCALARS, lambda some: st.lists(some) | st.dictionaries(st.text(), some), max_leaves=8)


def alike(value: Any) -> list[Any]:
    """What a careless client sends in place of a value."""
    return [float(value), str(value), -value, [value], value == 1] if isinstance(value, int) else [[value], {"": value}]


@few(200)
def test_no_tensor_with_one_thing_changed_is_the_servers_fault(client: httpx.Client, examples: int) -> None:
    codes = Counter[int]()

    @relaxed(examples)
    @given(st.sampled_from(PLACES), st.data())
    def ask(place: tuple[str | int, ...], data: st.DataObject) -> None:
        request: Any = tensor_request()
        spot = request
        for key in place[:-1]:
            spot = spot[key]
        old = spot.get(place[-1]) if isinstance(spot, dict) else spot[place[-1]]
        spot[place[-1]] = data.draw(st.sampled_from(alike(old)) | JSON)
        answer = client.post("/v2/models/tire-defect/infer", content=json.dumps(request))
        codes[answer.status_code] += 1
        assert answer.status_code in (200, 400), (request, answer.text)

    ask()
    assert codes[200] and codes[400]


@few(200)
def test_no_form_of_odd_names_and_charsets_is_the_servers_fault(
    client: httpx.Client, red_png: bytes, examples: int
) -> None:
    codes = Counter[int]()
    plain = st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_categories=["Cc", "Zs"])
    ordinary, odd = [None, "utf-8"], ["undefined", "idna", "punycode", "unicode_escape", "no-such"]
    charsets = st.sampled_from(ordinary) | st.sampled_from(odd) | st.sampled_from(sorted({*aliases.values()}))
    filenames = st.binary() | st.sampled_from([b"+2AA-", b"\\\\ud800", b"\x00\xd8", b'a"b', b"\xff"])

    @relaxed(examples)
    @given(st.sampled_from(["images", "image", "x"]), filenames, charsets, st.just("x") | st.text(plain))
    def ask(field: str, filename: bytes, charset: str | None, boundary: str) -> None:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="'.encode("latin-1")
        body = head + filename + b'"\r\n\r\n' + red_png + f"\r\n--{boundary}--\r\n".encode("latin-1")
        kind = f"multipart/form-data; boundary={boundary}" + (f"; charset={charset}" if charset else "")
        answer = client.post("/predict", content=body, headers={"Content-Type": kind.encode("latin-1")})
        codes[answer.status_code] += 1
        assert answer.status_code in (200, 400), (answer.text, kind, body)

    ask()
    assert codes[200] and codes[400]
