"""The HTTP server under the application: slow clients are cut off, and a stop loses no accepted request.

uvicorn bounds how long a connection may be idle after an answer, but not how long the first byte and the headers of a
request may take, how large they and the trailers of a chunked body may grow with httptools, how many requests may be
sent ahead, or how long a client may leave its answer unread. Behind these bounds `limits.BodyGuard` holds the body to
its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import struct
import sys
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tire_pipeline.serving.limits import Limits

NOTICE_S = 0.5
FIRST_REQUEST_S = 1.0
HANDSHAKE_S = 0.1
SO_ATTACH_FILTER = 26
REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
}


class GuardedProtocol(HttpToolsProtocol):
    """Gives a connection `head_timeout_s` from its first moment, or from the first byte after an answer, to the end of
    a request's headers, and `max_head_bytes` for them; as many for whatever else comes that is no body: the trailers of
    a chunked one, which are not kept, and what stands beside its sizes. A client that reads nothing of its answer for
    `answer_timeout_s` loses the connection, as does one that sends over `max_pipelined` requests before an answer. Over
    `max_connections` a connection is closed at once.
    """

    cycle: Any  # None before the first request, which uvicorn's own annotation denies

    def __init__(self, *args: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._deadline: TimerHandle | None = None
        self._unread: TimerHandle | None = None
        self._in_head, self._got_on, self._num_between = False, False, 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            transport.abort()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        self._answer_is_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head()  # also what is left of a body that was answered early has no longer than that
        self._got_on = False
        super().data_received(data)
        self._num_between = 0 if self._got_on else self._num_between + len(data)
        if self._num_between > self._limits.max_head_bytes:
            self._refuse(431, f"The headers are larger than {self._limits.max_head_bytes} bytes.")

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what comes later is a trailer, and uvicorn would keep it
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._got_on = False, True
        self._head_is_there()
        if len(self.pipeline) >= self._limits.max_pipelined:
            self._refuse(429, f"Over {self._limits.max_pipelined} requests wait for their answers on one connection.")
            raise ConnectionAbortedError  # to the parser, which leaves the rest of the data alone
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._got_on = True
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:  # uvicorn reads on, however many requests wait
            self.flow.pause_reading()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def pause_writing(self) -> None:
        self._unread = self.loop.call_later(self._limits.answer_timeout_s, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._answer_is_read()
        super().resume_writing()

    def shutdown(self) -> None:
        """As uvicorn's, but a fresh connection has a moment for the request that is on its way."""
        if self.cycle is not None:
            super().shutdown()
        else:
            self._head_is_there()
            self._deadline = self.loop.call_later(FIRST_REQUEST_S, self.transport.close)

    def _answer_is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _expect_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._limits.head_timeout_s, self._too_slow)

    def _head_is_there(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._refuse(408, f"No whole request arrived within {self._limits.head_timeout_s:g} seconds.")

    def _refuse(self, code: int, text: str) -> None:
        if not self.transport.is_closing():
            body = json.dumps({"error": text}).encode()
            head = (
                f"HTTP/1.1 {code} {REASONS[code]}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()


class DrainingServer(uvicorn.Server):
    """On a signal, `notice_s` go by in which every answer closes its connection, so that clients and balancers turn
    elsewhere; then nothing is accepted any more, and what was accepted is answered.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, *, notice_s: float = NOTICE_S) -> None:
        super().__init__(config)
        self._drain, self._notice_s = drain, notice_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._drain.started = True
        await asyncio.sleep(self._notice_s)
        for server in self.servers:
            for listener in server.sockets:
                drop_new_connections(listener.fileno())
        await asyncio.sleep(HANDSHAKE_S)  # those that have begun are completed, and accepted
        for waiting in self._close_listeners():
            await self._connect(waiting)
        await super().shutdown(sockets)

    def _close_listeners(self) -> list[socket.socket]:
        """Refuse new connections. Those that the kernel has accepted, which closing would reset, are returned."""
        waiting = []
        listeners = [socket.socket(fileno=os.dup(s.fileno())) for server in self.servers for s in server.sockets]
        for server in self.servers:
            server.close()
        for listener in listeners:
            with listener, suppress(BlockingIOError):
                listener.setblocking(False)
                while True:
                    waiting.append(listener.accept()[0])
        return waiting

    async def _connect(self, accepted: socket.socket) -> None:
        protocol = partial(
            cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        await asyncio.get_running_loop().connect_accepted_socket(protocol, accepted, ssl=self.config.ssl)


def drop_new_connections(listener: int) -> None:
    """Let the kernel drop what asks for a new connection on a listening socket, as if it were lost on the way: who asks
    tries again in a second, and is refused by then. What is accepted between a last look and closing would be reset.
    Linux alone; elsewhere nothing happens.

    The filter (classic BPF, see socket(7)) sees a packet from its TCP header on, whose 14th byte has the SYN flag.
    """
    if sys.platform != "linux":
        return
    load_flags, skip_unless_syn, drop, keep = (
        (0x30, 0, 0, 13),
        (0x45, 0, 1, 0x02),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0xFFFF),
    )
    steps = (load_flags, skip_unless_syn, drop, keep)
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    with socket.socket(fileno=os.dup(listener)) as same, suppress(OSError):
        same.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(steps), ctypes.addressof(program)))


class Drain:
    """ASGI middleware: once `started`, answers close their connection."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.started = app, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if self.started and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self.app(scope, receive, closing)


def build_server(app: ASGIApp, *, limits: Limits, host: str, port: int, **options: Any) -> DrainingServer:
    """A server of `app` that holds connections to `limits`; `options` are uvicorn's."""
    drain = Drain(app)
    config = uvicorn.Config(
        drain,
        host=host,
        port=port,
        http=partial(GuardedProtocol, limits=limits),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        **options,
    )
    return DrainingServer(config, drain)
