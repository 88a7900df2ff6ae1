"""Optional API keys. The server knows their sha256 alone: a key is 256 random bits, which no dictionary holds, so a
slow hash would protect nothing more. Without TLS in front keys travel in the clear (docs/runbook.md).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# What balancers ask, and pages that hold no data.
OPEN = {"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}


class RequireKey:
    """ASGI middleware: 401 for a request without `Authorization: Bearer KEY`, where the sha256 (64 hex) of `KEY` is one
    of `digests`. Two keys at once let one be exchanged for the other without a pause.
    """

    def __init__(self, app: ASGIApp, digests: Sequence[str]) -> None:
        self.app, self._digests = app, digests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN or self._is_known(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        text = "This server wants a key: send the header `Authorization: Bearer KEY`. Whoever runs the server has one."
        headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
        await JSONResponse({"error": text}, 401, headers)(scope, receive, send)

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode("latin-1")).hexdigest()
        same = [hmac.compare_digest(given, digest) for digest in self._digests]  # all of them, in constant time
        return scheme.lower() == "bearer" and any(same)
