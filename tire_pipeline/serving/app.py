"""The ASGI application: routes, limits, one form for every error."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tire_pipeline.errors import InputError, ServiceUnavailable, TireError
from tire_pipeline.serving import routes, v2
from tire_pipeline.serving.batcher import Overloaded
from tire_pipeline.serving.capture import Capture
from tire_pipeline.serving.follower import Follower
from tire_pipeline.serving.keys import RequireKey
from tire_pipeline.serving.limits import Admission, BodyGuard, Limits
from tire_pipeline.serving.metrics import CountRequests, ServingMetrics
from tire_pipeline.serving.model import ModelSlot
from tire_pipeline.serving.service import build_service
from tire_pipeline.serving.trial import Trial

INFERENCE = re.compile(r"/predict|/v2/models/[^/]+(/versions/[^/]+)?/infer")
UNROUTED = ("Not Found", "Method Not Allowed")  # Starlette's own words
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}


def create_app(
    slot: ModelSlot,
    *,
    metrics: ServingMetrics,
    limits: Limits | None = None,
    capture: Capture | None = None,
    followers: Sequence[Follower] = (),
    trial: Trial | None = None,
    api_keys: Sequence[str] = (),
    threads: int = 1,
) -> FastAPI:
    """The server's application. Its lifespan starts the followers, and at the end drains batcher and capture.

    With `api_keys`, sha256 of keys, requests need one of them (see `keys.RequireKey`).
    """
    limits = limits or Limits()
    service = build_service(slot, limits=limits, metrics=metrics, capture=capture, trial=trial, threads=threads)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for follower in followers:
            await asyncio.to_thread(follower.start)
        yield
        for follower in followers:
            follower.stop()
        await asyncio.to_thread(service.close)

    app = FastAPI(title=f"{slot.project} serving", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.include_router(routes.build_router(service))
    app.include_router(v2.build_router(service))
    _add_page(app, "/", "page.html")
    _add_page(app, "/docs", "docs.html")
    app.add_middleware(BodyGuard, limits=limits, costs=costs)
    app.add_middleware(Admission, limits=limits, costs=costs)
    if api_keys:
        app.add_middleware(RequireKey, digests=api_keys)
    app.add_middleware(CountRequests, metrics=metrics, is_inference=is_inference)
    _add_error_answers(app)
    return app


def is_inference(path: str) -> bool:
    """Whether a POST to this path asks for answers: what metrics count and time."""
    return INFERENCE.fullmatch(path) is not None


def costs(path: str) -> bool:
    """Whether the model works for this path: what is admitted only up to a bound."""
    return path == "/explain" or is_inference(path)


def _add_page(app: FastAPI, path: str, name: str) -> None:
    html = files("tire_pipeline.serving").joinpath(name).read_text(encoding="utf-8")

    @app.get(path, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=PAGE_HEADERS)


def _add_error_answers(app: FastAPI) -> None:
    """Every error is `{"error": "<sentence>"}`, KServe's form; a traceback only ever goes to the log."""

    @app.exception_handler(TireError)
    async def tire_error(_: Request, error: TireError) -> JSONResponse:
        if isinstance(error, Overloaded):
            return _error(429, str(error), {"Retry-After": "1"})
        code = 400 if isinstance(error, InputError) else 503 if isinstance(error, ServiceUnavailable) else 500
        return _error(code, str(error))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        text = error.detail
        if text in UNROUTED:
            text = f"{request.method} {request.url.path} does not exist here; /docs lists what does."
        return _error(error.status_code, text, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in error.errors())
        return _error(422, f"The request cannot be used: {problems}.")

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> JSONResponse:
        return _error(400, "The connection ended before the request did.")  # for the metrics: nobody reads it

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return _error(500, "The server failed on this request; its log says why.")


def _error(code: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": text}, code, headers=headers)
