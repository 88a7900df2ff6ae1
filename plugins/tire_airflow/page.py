"""The Tire page: what the steps say of the project, for those who may see its DAG. It changes nothing."""

from __future__ import annotations

from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from tire_pipeline import steps
from tire_pipeline.errors import InputError, TireError

DAG_ID = "train_and_promote"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
OURS = {"Content-Security-Policy": POLICY + "frame-src 'self'; frame-ancestors 'self'"}
# Cards and reports hold words out of other people's files: whatever they are, nothing in them runs.
THEIRS = {"Content-Security-Policy": POLICY + "sandbox; frame-ancestors 'self'"}
SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
FRAME = """globalThis.Tire = () => globalThis.React.createElement("iframe", {
  src: new URL("tire/", document.baseURI).href,
  title: "Tire",
  sandbox: "allow-same-origin allow-popups allow-popups-to-escape-sandbox",
  style: { border: 0, display: "block", width: "100%", height: "100%", minHeight: "80vh" },
});
"""
ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="{colour}" stroke-width="2">
<circle cx="12" cy="12" r="10"/><circle cx="12" cy="12" r="5"/>
<path d="M12 2v3M12 19v3M2 12h3M19 12h3M5 5l2 2M17 17l2 2M5 19l2-2M17 7l2-2"/></svg>
"""

may_see = requires_access_dag("GET", param_dag_id=DAG_ID)
app = FastAPI(dependencies=[Depends(may_see)], openapi_url=None, docs_url=None, redoc_url=None)


@app.get("/")
def overview() -> HTMLResponse:
    return HTMLResponse(steps.overview_page(), headers=OURS | SAFE)


@app.get("/card/{version}")
def card(version: int) -> HTMLResponse:
    return HTMLResponse(steps.model_card(version), headers=THEIRS | SAFE)


@app.get("/data/{snapshot_digest}")
def data(snapshot_digest: str) -> HTMLResponse:
    return HTMLResponse(steps.data_report(snapshot_digest), headers=THEIRS | SAFE)


@app.get("/frame.js")
def frame() -> Response:
    return Response(FRAME, media_type="text/javascript", headers=SAFE)


@app.get("/icon.svg")
def icon() -> Response:
    return Response(ICON.format(colour="black"), media_type="image/svg+xml", headers=SAFE)


@app.get("/icon-dark.svg")
def icon_dark() -> Response:
    return Response(ICON.format(colour="white"), media_type="image/svg+xml", headers=SAFE)


@app.exception_handler(TireError)
def refused(request: Request, error: TireError) -> PlainTextResponse:
    """Without the error's words, which may hold an address; the overview says what cannot be reached."""
    if isinstance(error, InputError):
        return PlainTextResponse("There is none.", 404, SAFE)
    return PlainTextResponse("It cannot be read now.", 503, SAFE)
