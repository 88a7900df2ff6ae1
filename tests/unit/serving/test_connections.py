"""Slow, large and endless clients over real sockets, and a stop under load."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI

from tests.unit.serving.conftest import Running
from tire_pipeline.bundle import Bundle
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.connections import drop_new_connections
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel, ModelSlot, load_model

Serve = Callable[..., httpx.Client]
QUICK = Limits(head_timeout_s=0.3, body_timeout_s=0.3, answer_timeout_s=0.3, max_head_bytes=4096, max_connections=20)
DEADLINE_S = 20.0
INFER = b"POST /v2/models/tire-defect/infer HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def app(make_bundle: Callable[..., Bundle]) -> FastAPI:
    metrics = ServingMetrics()
    slot = ModelSlot("tire-defect", metrics)
    slot.swap(load_model(make_bundle().path))
    return create_app(slot, metrics=metrics, limits=QUICK)


@pytest.fixture
def client(app: FastAPI, serve: Serve) -> httpx.Client:
    return serve(app, QUICK)


@pytest.fixture
def patient(model: LoadedModel, slot: ModelSlot, metrics: ServingMetrics, serve: Serve) -> httpx.Client:
    """A client of a server that waits for minutes."""
    limits = replace(QUICK, head_timeout_s=60, body_timeout_s=60)
    return serve(create_app(slot, metrics=metrics, limits=limits), limits)


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    address = (client.base_url.host, client.base_url.port or 0)
    with socket.create_connection(address, timeout=DEADLINE_S) as connection:
        yield connection


def seconds_until_cut_off(connection: socket.socket, data: bytes) -> float:
    """How long the server puts up with `data` sent again and again."""
    started = time.monotonic()
    with suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() - started < DEADLINE_S:
            connection.sendall(data)
            time.sleep(0.02)
    return time.monotonic() - started


def ends_with(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection, which it must do within the deadline."""
    return connection.makefile("rb").read()


def test_a_connection_that_says_nothing_is_cut_off(client: httpx.Client) -> None:
    with connected(client) as connection:
        assert ends_with(connection).startswith(b"HTTP/1.1 408")


def test_headers_that_trickle_in_are_cut_off_however_busy_the_client_looks(client: httpx.Client) -> None:
    with connected(client) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        assert seconds_until_cut_off(connection, b"X-Slow: 1\r\n") < 5
    assert client.get("/healthz").status_code == 200


def test_a_body_that_trickles_in_is_cut_off(client: httpx.Client) -> None:
    with connected(client) as connection:
        connection.sendall(INFER + b"Content-Length: 10\r\n\r\n{")
        answer = ends_with(connection)
    assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive within 0.3 seconds" in answer


def test_a_client_that_leaves_amid_its_body_is_no_failure_of_the_server(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(client) as connection:
        connection.sendall(INFER + b"Content-Length: 10\r\n\r\n{")
    deadline, counted = time.monotonic() + DEADLINE_S, ""
    while "inference_requests_total{" not in counted and time.monotonic() < deadline:
        counted = client.get("/metrics").text
    assert 'inference_requests_total{code="400",version="none"} 1.0' in counted
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_second_request_on_the_same_connection_has_its_own_time(client: httpx.Client) -> None:
    with connected(client) as connection:
        for _ in range(3):
            time.sleep(0.2)
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /heal")
        assert ends_with(connection).startswith(b"HTTP/1.1 408")


def test_what_is_left_of_a_body_that_was_refused_early_cannot_trickle_on(client: httpx.Client) -> None:
    with connected(client) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 404")
        assert seconds_until_cut_off(connection, b"x") < 5


def test_endless_headers_are_refused(client: httpx.Client) -> None:
    with connected(client) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX-Long: " + b"a" * 5000)
        assert ends_with(connection).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(b"a:b\r\n" * 2000, id="many trailers"),
        pytest.param(b"a" * 8000, id="one endless trailer"),
    ],
)
@pytest.mark.parametrize("request_line", [b"GET /healthz", b"POST /v2/models/tire-defect/infer", b"POST /nowhere"])
def test_endless_trailers_are_refused(patient: httpx.Client, request_line: bytes, more: bytes) -> None:
    with connected(patient) as connection:
        start = b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
        connection.sendall(request_line + start)
        time.sleep(0.05)
        assert seconds_until_cut_off(connection, more) < 5
    assert patient.get("/healthz").status_code == 200


def test_what_stands_beside_the_sizes_of_chunks_is_bounded_too(patient: httpx.Client) -> None:
    with connected(patient) as connection:
        connection.sendall(INFER + b"Transfer-Encoding: chunked\r\n\r\n1;")
        assert seconds_until_cut_off(connection, b"a" * 1000) < 5


def test_small_chunks_and_a_trailer_are_an_ordinary_request(client: httpx.Client) -> None:
    with connected(client) as connection:
        chunks = b"1\r\na\r\n" * 3000
        connection.sendall(INFER + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nX-Sum: 1\r\n\r\n")
        assert b"The body is no JSON" in connection.recv(4096)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_requests_sent_ahead_are_answered_in_order_up_to_a_bound(client: httpx.Client) -> None:
    asked = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connected(client) as connection:
        connection.sendall(asked * 40 + last)
        answers = ends_with(connection)
    assert answers.count(b"HTTP/1.1 200") == 40 and answers.rindex(b"HTTP/1.1 404") > answers.rindex(b"HTTP/1.1 200")
    with connected(client) as connection:
        connection.sendall(asked * 1000)
        answers = ends_with(connection)
    assert b"HTTP/1.1 429" in answers and answers.count(b"HTTP/1.1 200") < 1000


def test_what_is_no_http_is_refused_in_the_form_of_every_error(client: httpx.Client) -> None:
    with connected(client) as connection:
        connection.sendall(b"what is this?\r\n\r\n")
        answer = ends_with(connection)
    assert answer.startswith(b"HTTP/1.1 400") and answer.endswith(b'{"error": "Invalid HTTP request received."}')


def test_a_client_that_never_reads_its_answers_loses_the_connection(app: FastAPI, serve: Serve) -> None:
    client = serve(app, replace(QUICK, max_pipelined=10**6))
    with connected(client) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        assert seconds_until_cut_off(connection, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50) < 10
    assert client.get("/healthz").status_code == 200


def test_slow_clients_keep_nobody_out_and_more_of_them_than_may_be_are_closed_at_once(
    client: httpx.Client,
) -> None:
    address = (client.base_url.host, client.base_url.port or 0)
    assert client.get("/healthz").status_code == 200  # its connection is there before the others
    slow = [socket.create_connection(address, timeout=DEADLINE_S) for _ in range(40)]
    try:
        for connection in slow:
            connection.sendall(b"G")
        assert client.get("/healthz").status_code == 200
        told = sum(_end(connection).startswith(b"HTTP/1.1 408") for connection in slow)
    finally:
        for connection in slow:
            connection.close()
    assert 10 <= told <= 20
    assert client.get("/healthz").status_code == 200


def _end(connection: socket.socket) -> bytes:
    try:
        return ends_with(connection)
    except ConnectionResetError:
        return b""


def test_uploads_that_together_hold_too_much_are_told_to_come_back(
    make_bundle: Callable[..., Bundle], serve: Serve
) -> None:
    metrics = ServingMetrics()
    slot = ModelSlot("tire-defect", metrics)
    slot.swap(load_model(make_bundle().path))
    limits = Limits(max_body_bytes=100_000, max_held_bytes=100_000)
    client = serve(create_app(slot, metrics=metrics, limits=limits), limits)
    with connected(client) as first:
        first.sendall(INFER + b"Content-Length: 90000\r\n\r\n" + bytes(80_000))
        deadline, codes = time.monotonic() + DEADLINE_S, []
        while 429 not in codes and time.monotonic() < deadline:
            answer = client.post("/v2/models/tire-defect/infer", content=bytes(60_000))
            codes.append(answer.status_code)
        assert answer.status_code == 429 and answer.headers["Retry-After"] == "1"
        first.sendall(bytes(10_000))
        assert first.recv(4096).startswith(b"HTTP/1.1 400")
    assert client.post("/v2/models/tire-defect/infer", content=bytes(60_000)).status_code == 400


def test_a_stop_under_load_closes_connections_politely_and_answers_what_it_took(app: FastAPI, red_png: bytes) -> None:
    server = Running(app, replace(QUICK, max_connections=100))
    ends: Counter[str] = Counter()

    def ask_until_it_is_gone() -> None:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
            while True:
                try:
                    answer = client.post("/predict", files=[("images", ("a.png", red_png))])
                except httpx.TransportError as error:
                    ends[type(error).__name__] += 1
                    return
                ends[str(answer.status_code)] += 1

    threads = [threading.Thread(target=ask_until_it_is_gone) for _ in range(6)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + DEADLINE_S
    while ends["200"] < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    server.stop()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert set(ends) <= {"200", "ConnectError"}, ends


def test_before_a_listener_is_closed_no_connection_can_begin_and_those_that_have_are_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address, timeout=5) as begun:
            drop_new_connections(listener.fileno())
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.3)
            accepted, _ = listener.accept()
            with accepted:
                begun.sendall(b"ping")
                assert accepted.recv(10) == b"ping"
            listener.settimeout(0.1)
            with pytest.raises(TimeoutError):
                listener.accept()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
