"""What one request and the whole server may take, and the middleware that holds requests to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tire_pipeline.imaging import MAX_PIXELS

CLOSE = {"Connection": "close"}  # the rest of the body is not worth reading


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds. `max_in_flight` counts admitted images, decoding and queued together."""

    max_images: int = 32
    max_image_bytes: int = 20 * 2**20
    max_body_bytes: int = 64 * 2**20
    max_pixels: int = MAX_PIXELS
    body_timeout_s: float = 30.0
    max_in_flight: int = 256
    max_batch: int = 16
    max_wait_s: float = 0.003

    def __post_init__(self) -> None:
        if self.max_in_flight < self.max_images:
            raise ValueError(
                f"max_in_flight is {self.max_in_flight}, below max_images {self.max_images}: "
                "a full request could never be admitted."
            )


class BodyGuard:
    """ASGI middleware: 413 for a body over `max_body_bytes`, 408 for one that takes over `body_timeout_s` to arrive.

    A declared length is refused before anything is read; a chunked body is counted as it comes.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > self.limits.max_body_bytes:
            error = self._too_large()
            await JSONResponse({"error": error.detail}, error.status_code, error.headers)(scope, receive, send)
        else:
            await self.app(scope, self._counting(receive), send)

    def _counting(self, receive: Receive) -> Receive:
        received, complete = 0, False
        deadline = asyncio.get_running_loop().time() + self.limits.body_timeout_s

        async def counting() -> Message:
            nonlocal received, complete
            if complete:  # what comes now is the client's disconnect, which has all the time it wants
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self.limits.max_body_bytes:
                raise self._too_large()
            return message

        return counting

    def _too_large(self) -> HTTPException:
        megabytes = self.limits.max_body_bytes / 2**20
        text = f"The request is larger than {megabytes:.0f} MiB; send fewer or smaller pictures."
        return HTTPException(413, text, headers=CLOSE)

    def _too_slow(self) -> HTTPException:
        text = f"The request did not arrive within {self.limits.body_timeout_s:g} seconds; send it again."
        return HTTPException(408, text, headers=CLOSE)
