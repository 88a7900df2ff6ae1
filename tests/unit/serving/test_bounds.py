"""Bounds on what clients send, and on how much at once."""

from __future__ import annotations

import socket
from dataclasses import replace

import httpx

from tests.corpus import jpeg_of_many_scans
from tests.unit.serving.conftest import SMALL, Serve, Stuck, held_up, pictures
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel, ModelSlot


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


def test_where_no_picture_is_sent_a_small_body_is_the_most(client: httpx.Client, model: LoadedModel) -> None:
    for method, path in (("POST", "/feedback"), ("GET", "/healthz"), ("POST", "/nowhere")):
        answer = client.request(method, path, content=b"[" + b"[]," * 30_000)
        assert answer.status_code == 413 and "larger than 64 KiB" in answer.json()["error"]


def test_a_picture_that_takes_a_quarter_of_a_minute_to_decode_is_refused_at_once(
    slot: ModelSlot, metrics: ServingMetrics, model: LoadedModel, red_png: bytes, serve: Serve
) -> None:
    client = serve(create_app(slot, metrics=metrics))
    bomb, good = client.post("/predict", files=pictures(jpeg_of_many_scans(250), red_png)).json()["predictions"]
    assert "scans; at most 27 are read" in bomb["error"] and good["label"] == "defective"


def test_a_client_that_sends_too_slowly_is_cut_off(
    slot: ModelSlot, metrics: ServingMetrics, model: LoadedModel, serve: Serve
) -> None:
    client = serve(create_app(slot, metrics=metrics, limits=Limits(body_timeout_s=0.2)))
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection:
        connection.sendall(b"POST /v2/models/tire-defect/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        answer = connection.makefile("rb").read()  # ends when the server closes the connection
    assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive within 0.2 seconds" in answer


def test_over_the_bound_requests_are_refused_at_once_and_those_admitted_are_answered(
    client: httpx.Client, slot: ModelSlot, model: LoadedModel, red_png: bytes
) -> None:
    stuck = Stuck(model.session)
    slot.swap(replace(model, session=stuck))  # type: ignore[arg-type]
    with held_up(stuck, lambda: client.post("/predict", files=pictures(*[red_png] * 4))) as admitted:
        refused = client.post("/predict", files=pictures(red_png))
    assert refused.status_code == 429 and refused.headers["Retry-After"] == "1" and "busy" in refused.json()["error"]
    assert admitted[0].status_code == 200
    assert client.post("/predict", files=pictures(red_png)).status_code == 200


def test_over_its_number_of_requests_the_server_refuses_before_it_reads(
    slot: ModelSlot, metrics: ServingMetrics, model: LoadedModel, red_png: bytes, serve: Serve
) -> None:
    stuck = Stuck(model.session)
    slot.swap(replace(model, session=stuck))  # type: ignore[arg-type]
    client = serve(create_app(slot, metrics=metrics, limits=replace(SMALL, max_requests=1)))
    with held_up(stuck, lambda: client.post("/predict", files=pictures(red_png))) as admitted:
        address = (client.base_url.host, client.base_url.port or 0)
        with socket.create_connection(address, timeout=20) as connection:  # sends no body at all
            connection.sendall(b"POST /v2/models/tire-defect/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 429")
        refused = client.post("/predict", files=pictures(red_png))
        others = [client.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/model")]
    assert refused.status_code == 429 and refused.headers["Retry-After"] == "1" and "busy" in refused.json()["error"]
    assert others == [200] * 4 and admitted[0].status_code == 200
    assert client.post("/predict", files=pictures(red_png)).status_code == 200
