"""The routes that people and programs use: `/predict`, `/feedback`, the model's facts, probes and metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile

from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.serving.batcher import Overloaded
from tire_pipeline.serving.capture import Capture
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.model import LoadedModel
from tire_pipeline.serving.online import Upload
from tire_pipeline.serving.reading import read
from tire_pipeline.serving.schemas import (
    ChallengerAnswer,
    ErrorAnswer,
    ExplainAnswer,
    Feedback,
    ModelAnswer,
    PredictAnswer,
)
from tire_pipeline.serving.service import Service

FLUSH_TIMEOUT_S = 5.0
CHARSETS = {"utf-8", "utf8", "us-ascii", "iso-8859-1"}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The request cannot be read"},
    408: {"model": ErrorAnswer, "description": "The body arrived too slowly"},
    413: {"model": ErrorAnswer, "description": "The body is too large"},
    429: {"model": ErrorAnswer, "description": "Busy; try again after `Retry-After` seconds"},
    503: {"model": ErrorAnswer, "description": "No model is in production yet, or the ledger is away"},
}
EXPLAIN_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}, "label": {"type": "string"}},
                }
            }
        },
    }
}
PREDICT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}


def build_router(service: Service) -> APIRouter:
    """Everything but KServe's protocol and the pages."""
    router = APIRouter()

    @router.post(
        "/predict",
        summary="Classify pictures",
        responses={200: {"model": PredictAnswer, "description": "As many predictions as pictures"}, **ERRORS},
        openapi_extra=PREDICT_BODY,
    )
    async def predict(request: Request) -> Response:
        """Multipart field `images`, once for each picture (JPEG, PNG, BMP, WebP, TIFF). Answers keep the order sent;
        a picture that cannot be read has an `error` and does not disturb the others.
        """
        service.model()
        if service.batcher.full:
            raise Overloaded("The server is busy; try again in a second.")
        uploads = await _read_uploads(request, service.limits)
        model = service.model()
        request.state.model_version = model.version
        answer = PredictAnswer(predictions=await service.predictor.classify(model, uploads))
        request.state.model_version = answer.predictions[0].model_version
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")

    @router.post(
        "/explain",
        summary="Where in a picture its class is seen",
        responses={200: {"model": ExplainAnswer, "description": "The map"}, **ERRORS},
        openapi_extra=EXPLAIN_BODY,
    )
    async def explain(request: Request) -> ExplainAnswer:
        """Multipart fields `image` and, where it is not the decision's class that is asked for, `label`. Costs as much
        as 65 pictures; one map is made at a time.
        """
        service.model()
        upload, label = await _read_explain(request)
        model = service.model()
        request.state.model_version = model.version
        classes = model.bundle.classes
        if label is not None and label not in classes:
            raise InputError(f"{label!r} is not a class of this model; it knows {', '.join(classes)}.")
        with service.explainer.turn():
            reading = await asyncio.get_running_loop().run_in_executor(
                service.pool, read, upload, model.bundle, service.limits
            )
            if reading.picture is None:
                raise InputError(reading.error or "The picture cannot be read.")
            found = await service.explainer.explain(
                model, reading.picture.x_CHW, label=None if label is None else classes.index(label)
            )
        return ExplainAnswer(
            label=classes[found.label],
            probability=found.probability,
            map=found.drop_GG.tolist(),
            model_version=model.version,
            model_digest=model.bundle.digest,
        )

    @router.post(
        "/feedback",
        summary="Say what a picture really shows",
        responses={404: {"model": ErrorAnswer}, **ERRORS},
    )
    async def feedback(body: Feedback) -> Feedback:
        """`label` is one of the model's classes; `prediction_id` stands in the answer of `/predict`."""
        if service.capture is None:
            raise ServiceUnavailable("This server has no ledger, so it keeps no feedback; set TIRE_LEDGER_URL.")
        classes = service.model().bundle.classes
        if body.label not in classes:
            raise InputError(f"{body.label!r} is not a class of this model; it knows {', '.join(classes)}.")
        await asyncio.to_thread(_record_feedback, service.capture, body)
        return body

    @router.get("/model", summary="The model that answers now", responses={503: {"model": ErrorAnswer}})
    async def model_facts() -> ModelAnswer:
        model = service.model()
        bundle = model.bundle
        return ModelAnswer(
            project=service.slot.project,
            version=model.version,
            digest=bundle.digest,
            candidate=bundle.candidate,
            classes=bundle.classes,
            positive_class=bundle.positive_class,
            threshold=bundle.threshold,
            review_band=bundle.review_band,
            challenger=_challenger(service, model),
            feedback=service.capture is not None,
        )

    @router.get("/healthz", summary="Is the process alive")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz", summary="Can it classify", responses={503: {"model": ErrorAnswer}})
    async def readyz() -> dict[str, str | int]:
        model = service.model()
        return {"status": "ready", "model_version": model.version, "model_digest": model.bundle.digest}

    @router.get("/metrics", summary="For Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router


async def _read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """The files of field `images`. Raises InputError when there is none, HTTPException for a body that is no form."""
    _check_charset(request)
    async with request.form(max_files=limits.max_images, max_fields=limits.max_images) as form:
        files = [item for item in form.getlist("images") if isinstance(item, UploadFile)]
        if not files:
            raise InputError("There is no picture in this request; send files in the multipart field `images`.")
        return [Upload(file.filename or "", await file.read()) for file in files]


async def _read_explain(request: Request) -> tuple[bytes, str | None]:
    """The picture and the label that it is asked about. Raises InputError where there is no picture."""
    _check_charset(request)
    async with request.form(max_files=1, max_fields=1) as form:
        image, label = form.get("image"), form.get("label")
        if not isinstance(image, UploadFile):
            raise InputError("There is no picture in this request; send a file in the multipart field `image`.")
        return await image.read(), label if isinstance(label, str) else None


def _check_charset(request: Request) -> None:
    """RFC 7578 knows no charset of a form, and Starlette decodes the names in it with any that Python has, such as
    `undefined`, or `unicode_escape`, which gives what UTF-8 cannot say again."""
    _, options = parse_options_header(request.headers.get("content-type"))
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in CHARSETS:
        raise InputError(f"The form's charset is {charset[:20]!r}; leave it out, and send names in UTF-8.")


def _challenger(service: Service, champion: LoadedModel) -> ChallengerAnswer | None:
    trial = service.beside.trial if service.beside else None
    model = trial.challenger(champion) if trial else None
    if trial is None or model is None:
        return None
    return ChallengerAnswer(
        version=model.version,
        digest=model.bundle.digest,
        candidate=model.bundle.candidate,
        weight=0.0 if trial.returned else trial.weight,
        returned=trial.returned,
        compared=trial.num_compared,
        different=trial.num_different,
    )


def _record_feedback(capture: Capture, body: Feedback) -> None:
    """Write the feedback after the prediction it speaks of, which may still be on its way to the ledger."""
    capture.flush(timeout_s=FLUSH_TIMEOUT_S)
    try:
        capture.ledger.record_feedback(str(body.prediction_id), body.label, body.source)
    except InputError as error:
        raise HTTPException(404, str(error)) from error
