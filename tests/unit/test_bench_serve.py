"""The load generator against a server whose answers are known, and the figures that are made of them."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tire_pipeline.bench.load import (
    LOST,
    UNSENT,
    Answer,
    Connection,
    Plan,
    closed_load,
    multipart,
    open_load,
    request_bytes,
    run,
    summarise,
)
from tire_pipeline.bench.serve import Asked, Cores, row_of, split_cores


class Server:
    """Answers every request after `delay_s`, every third one with 429, every seventh by hanging up."""

    def __init__(self, *, delay_s: float = 0.0, odd: bool = False) -> None:
        self.delay_s, self.odd, self.asked = delay_s, odd, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.lock = threading.Lock()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            while lines.readline():
                length = 0
                while (line := lines.readline()) != b"\r\n":
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                body = lines.read(length)
                with self.lock:
                    self.asked += 1
                    number = self.asked
                time.sleep(self.delay_s)
                if self.odd and number % 7 == 0:
                    return
                code = b"429 Busy" if self.odd and number % 3 == 0 else b"200 OK"
                connection.sendall(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (code, len(body), body))


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.listener.close()


def whole(server: Server) -> bytes:
    return request_bytes(server.address, "/", content_type="text/plain", body=b"hello")


def test_every_request_is_accounted_for_whatever_became_of_it(server: Server) -> None:
    server.odd = True
    answers = asyncio.run(closed_load(server.address, whole(server), connections=3, stop=lambda: server.asked >= 100))
    codes = [answer.code for answer in answers]
    assert len(codes) == server.asked
    assert codes.count(LOST) == server.asked // 7
    assert codes.count(429) == server.asked // 3 - server.asked // 21


def test_an_open_load_keeps_its_rate_and_counts_waiting_from_when_a_request_was_due(server: Server) -> None:
    server.delay_s = 0.05
    answers = asyncio.run(open_load(server.address, whole(server), rate=40, seconds=0.5, connections=1, keep=True))
    assert len(answers) == 20
    assert {answer.code for answer in answers} == {200, UNSENT}  # one connection can have 20 a second
    assert {answer.body for answer in answers if answer.code == 200} == {b"hello"}


def test_the_figures_are_those_of_the_answers() -> None:
    answers = [Answer(0.01 * i, 0.001 * (1 + i % 100), 200) for i in range(1000)]
    answers += [Answer(3.0, 0.001, 429), Answer(4.0, 0.3, 200), Answer(1.0, 0.0, LOST)]
    found = summarise(answers, seconds=10.0)
    assert found.codes == {"0": 1, "200": 1001, "429": 1}
    assert found.per_s == pytest.approx(100.1) and found.p50_ms == pytest.approx(51, abs=1)
    assert 99 <= found.p99_ms <= 101 and found.unsettled_s == 4.0
    assert summarise([], seconds=1.0).per_s == 0 and summarise([Answer(0, 0.5, 200)], seconds=1.0).p99_ms == 500


def test_a_plan_is_carried_out_over_real_sockets(server: Server, tmp_path: Path) -> None:
    content_type, body = multipart("images", b"picture")
    assert body.count(b"tire-bench-boundary") == 2 and content_type.endswith("tire-bench-boundary")
    form = tmp_path / "form"
    form.write_bytes(body)
    found = run(server.address, Plan("/predict", content_type, str(form), seconds=0.3, connections=2))
    assert found.codes == {"200": server.asked} and found.per_s > 0


def test_the_generator_has_a_core_of_its_own_where_there_are_two() -> None:
    assert split_cores({0, 1, 5}) == Cores(frozenset({0, 1}), frozenset({5}))
    assert split_cores({3}) == Cores(frozenset({3}), frozenset({3}))


def test_a_row_has_medians_and_every_failure() -> None:
    rounds = [
        Asked(summarise([Answer(0, ms / 1000, 200)] * n + [Answer(0, 0, 503)], seconds=1), cpu_ms=float(n))
        for n, ms in ((10, 5), (30, 7), (20, 6))
    ]
    found = row_of("ours", rounds, 50.0)
    assert (found.per_s, found.per_s_min, found.per_s_max, found.cpu_ms) == (20, 10, 30, 20)
    assert (found.p50_ms, found.memory_mb, found.failed, found.rounds) == (6, 50, 3, 3)


def test_a_connection_that_the_server_ended_in_between_loses_no_request() -> None:
    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()
        await writer.wait_closed()

    async def ask_twice() -> list[int]:
        server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        connection, codes = Connection(address), []
        for _ in range(2):
            code, _body = await connection.ask(request_bytes(address, "/", content_type="text/plain", body=b""))
            codes.append(code)
            await asyncio.sleep(0.2)
        connection.close()
        server.close()
        return codes

    assert asyncio.run(ask_twice()) == [200, 200]
