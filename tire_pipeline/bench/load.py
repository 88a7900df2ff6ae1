"""Requests over plain sockets, and what became of them: `python -m tire_pipeline.bench.load ADDRESS PLAN`.

One thread, no HTTP library: a generator that needs more CPU than the server measures itself. Closed: each of a number
of connections asks again once it is answered, as fast as the server can. Open: requests come at a rate whatever the
server does, and their time counts from when they were due (coordinated omission, Tene 2013).
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

LOST = 0  # the code of a request whose connection ended without an answer
UNSENT = -1  # the code of one that was due while every connection was taken
SETTLED_S = 0.25
IDLE_S = 4.0  # servers keep an idle connection for five
BOUNDARY = "tire-bench-boundary"


@dataclass(frozen=True)
class Plan:
    """What is asked: `body` is a file's name. A `rate` above 0, in requests a second, makes the load open, over at most
    `connections` connections; a request that finds all of them taken is not sent.
    """

    path: str
    content_type: str
    body: str
    seconds: float
    connections: int = 8
    rate: float = 0.0


@dataclass(frozen=True)
class Answer:
    """One request: when it was due, how long it took from then, the HTTP code, and the body where it was kept."""

    due_s: float
    seconds: float
    code: int
    body: bytes = b""


@dataclass
class Summary:
    """Codes by count, the rate of answers of 200 and percentiles of their time. `unsettled_s`: when the last request
    was due that had no answer of 200 within `SETTLED_S`; 0 where all had.
    """

    codes: dict[str, int]
    per_s: float
    p50_ms: float
    p99_ms: float
    unsettled_s: float


def summarise(answers: Iterable[Answer], *, seconds: float) -> Summary:
    """The figures of a run that lasted `seconds`."""
    listed = list(answers)
    good = sorted(a.seconds * 1000 for a in listed if a.code == 200)
    quantiles = statistics.quantiles(good, n=100) if len(good) > 1 else [*good, 0.0][:1] * 99
    return Summary(
        codes={str(code): count for code, count in sorted(Counter(a.code for a in listed).items())},
        per_s=len(good) / seconds,
        p50_ms=quantiles[49],
        p99_ms=quantiles[98],
        unsettled_s=max((a.due_s for a in listed if a.code != 200 or a.seconds > SETTLED_S), default=0.0),
    )


def multipart(field_name: str, data: bytes) -> tuple[str, bytes]:
    """Content type and body of a form with one picture."""
    head = f'Content-Disposition: form-data; name="{field_name}"; filename="a.jpg"\r\nContent-Type: image/jpeg'
    body = f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    return f"multipart/form-data; boundary={BOUNDARY}", body


def request_bytes(address: str, path: str, *, content_type: str, body: bytes) -> bytes:
    """A whole HTTP/1.1 request, to be sent again and again."""
    head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


class Connection:
    """One connection, reopened when the server closes it. One request at a time."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._asked = 0.0

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """(code, body); (`LOST`, b"") where the connection ends without an answer.

        A connection that the server ended while nothing was asked, or is about to, is opened anew, as clients do.
        """
        idle_s, self._asked = time.perf_counter() - self._asked, time.perf_counter()
        if self._streams and (idle_s > IDLE_S or self._streams[0].at_eof()):
            self.close()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._host, self._port)
            reader, writer = self._streams
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(_header(head, b"content-length")))
            if _header(head, b"connection") == b"close":
                self.close()
            return int(head.split(maxsplit=2)[1]), body
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            return LOST, b""

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None


def _header(head: bytes, name: bytes) -> bytes:
    _, _, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip()


async def closed_load(address: str, request: bytes, *, connections: int, stop: Callable[[], bool]) -> list[Answer]:
    """Ask over `connections` connections until `stop`."""
    started, answers = time.perf_counter(), list[Answer]()

    async def one() -> None:
        connection = Connection(address)
        while not stop():
            due = time.perf_counter()
            code, _ = await connection.ask(request)
            answers.append(Answer(due - started, time.perf_counter() - due, code))
            if code == LOST:
                await asyncio.sleep(0.05)
        connection.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return answers


async def open_load(
    address: str, request: bytes, *, rate: float, seconds: float, connections: int, keep: bool = False
) -> list[Answer]:
    """Ask `rate` times a second for `seconds`, and wait for the answers; with `keep` those of 200 have their body."""
    started, answers = time.perf_counter(), list[Answer]()
    idle = [Connection(address) for _ in range(connections)]

    async def one(due: float, connection: Connection) -> None:
        code, body = await connection.ask(request)
        idle.append(connection)
        answers.append(Answer(due - started, time.perf_counter() - due, code, body if keep and code == 200 else b""))

    tasks = set[asyncio.Task[None]]()
    for number in range(int(rate * seconds)):
        due = started + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        if not idle:
            answers.append(Answer(due - started, 0.0, UNSENT))
            await asyncio.sleep(0)
            continue
        task = asyncio.create_task(one(due, idle.pop()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return answers


def kept_answers(address: str, request: bytes, *, rate: float, seconds: float, connections: int) -> list[Answer]:
    """`open_load` with the bodies, for a thread or process that does nothing else."""
    load = open_load(address, request, rate=rate, seconds=seconds, connections=connections, keep=True)
    return asyncio.run(load)


def run(address: str, plan: Plan) -> Summary:
    """Carry the plan out."""
    body = Path(plan.body).read_bytes()
    request = request_bytes(address, plan.path, content_type=plan.content_type, body=body)
    if plan.rate:
        load = open_load(address, request, rate=plan.rate, seconds=plan.seconds, connections=plan.connections)
    else:
        end = time.perf_counter() + plan.seconds
        load = closed_load(address, request, connections=plan.connections, stop=lambda: time.perf_counter() >= end)
    return summarise(asyncio.run(load), seconds=plan.seconds)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(run(sys.argv[1], Plan(**json.loads(sys.argv[2]))))) + "\n")
