"""What one request and the whole server may take, and the middleware that holds requests to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tire_pipeline.imaging import MAX_PIXELS

CLOSE = {"Connection": "close"}  # the rest of the body is not worth reading
RETRY = {"Retry-After": "1"}
BUSY_TEXT = "The server is busy; try again in a second."


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds. `max_scan_pixels` is a JPEG's pixels times its scans: what 1000 million cost is
    about a second. `max_requests` counts requests to the model from their headers to their answer,
    `max_in_flight` admitted images, decoding and queued together, `max_held_bytes` the bodies of all requests under
    way. `head_timeout_s` and what follows hold a connection.
    """

    max_images: int = 32
    max_image_bytes: int = 20 * 2**20
    max_body_bytes: int = 64 * 2**20
    max_pixels: int = MAX_PIXELS
    max_other_body_bytes: int = 64 * 2**10
    max_scan_pixels: int = 20 * MAX_PIXELS
    max_held_bytes: int = 256 * 2**20
    body_timeout_s: float = 30.0
    max_requests: int = 256
    max_in_flight: int = 256
    max_batch: int = 16
    max_wait_s: float = 0.003
    head_timeout_s: float = 10.0
    max_head_bytes: int = 32 * 2**10
    max_pipelined: int = 64
    answer_timeout_s: float = 30.0
    max_connections: int = 512

    def __post_init__(self) -> None:
        if self.max_in_flight < self.max_images:
            raise ValueError(
                f"max_in_flight is {self.max_in_flight}, below max_images {self.max_images}: "
                "a full request could never be admitted."
            )
        if self.max_held_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_held_bytes is {self.max_held_bytes}, below max_body_bytes {self.max_body_bytes}: "
                "a full request could never be read."
            )


class Admission:
    """ASGI middleware: 429 for a request that `costs` (told by path) while `max_requests` of them are under way.

    It stands before anything that costs: where refusing is dear, an overload leaves no time for answers. Without it the
    server gave a fifth of its answers at three times its load, each after half a minute.
    """

    def __init__(self, app: ASGIApp, limits: Limits, costs: Callable[[str], bool]) -> None:
        self.app, self.limits, self.costs, self._num_requests = app, limits, costs, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.costs(scope["path"]):
            await self.app(scope, receive, send)
        elif self._num_requests >= self.limits.max_requests:
            await JSONResponse({"error": BUSY_TEXT}, 429, RETRY)(scope, receive, send)
        else:
            self._num_requests += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self._num_requests -= 1


class BodyGuard:
    """ASGI middleware: 413 for a body over `max_body_bytes`, or `max_other_body_bytes` where a request does not cost
    (told by path), 408 for one that takes over `body_timeout_s` to arrive, 429 while the bodies of all requests
    together hold `max_held_bytes`.

    A declared length is refused before anything is read; a chunked body is counted as it comes.
    """

    def __init__(self, app: ASGIApp, limits: Limits, costs: Callable[[str], bool]) -> None:
        self.app, self.limits, self.costs, self._held_bytes = app, limits, costs, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self.limits.max_body_bytes if self.costs(scope["path"]) else self.limits.max_other_body_bytes
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > most:
            error = _too_large(most)
            await JSONResponse({"error": error.detail}, error.status_code, error.headers)(scope, receive, send)
            return
        body = _Body(receive, most, asyncio.get_running_loop().time() + self.limits.body_timeout_s)
        try:
            await self.app(scope, partial(self._next, body), send)
        finally:
            self._held_bytes -= body.num_bytes

    async def _next(self, body: _Body) -> Message:
        if body.complete:  # what comes now is the client's disconnect, which has all the time it wants
            return await body.receive()
        try:
            async with asyncio.timeout_at(body.deadline):
                message = await body.receive()
        except TimeoutError:
            raise self._too_slow() from None
        size = len(message.get("body", b""))
        body.num_bytes += size
        body.complete = not message.get("more_body", False)
        self._held_bytes += size
        if body.num_bytes > body.max_bytes:
            raise _too_large(body.max_bytes)
        if self._held_bytes > self.limits.max_held_bytes:
            raise HTTPException(429, BUSY_TEXT, {**RETRY, **CLOSE})
        return message

    def _too_slow(self) -> HTTPException:
        text = f"The request did not arrive within {self.limits.body_timeout_s:g} seconds; send it again."
        return HTTPException(408, text, headers=CLOSE)


def _too_large(max_bytes: int) -> HTTPException:
    size = f"{max_bytes / 2**20:.0f} MiB" if max_bytes >= 2**20 else f"{max_bytes / 2**10:.0f} KiB"
    text = f"The request is larger than {size}, the most that is read here; send fewer or smaller pictures."
    return HTTPException(413, text, headers=CLOSE)


@dataclass
class _Body:
    receive: Receive
    max_bytes: int
    deadline: float
    num_bytes: int = 0
    complete: bool = False
