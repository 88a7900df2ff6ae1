"""The routes of KServe's V2 inference protocol, with its binary tensor extension
(https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol).
"""

from __future__ import annotations

import asyncio
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from tire_pipeline.serving.model import LoadedModel
from tire_pipeline.serving.routes import ERRORS
from tire_pipeline.serving.schemas import ErrorAnswer
from tire_pipeline.serving.service import Service
from tire_pipeline.serving.tensors import EXTENSION, HEADER_LENGTH, INPUT, OUTPUT, infer_answer, read_infer_request

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "No such model or version"}}
INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name", "datatype", "shape", "data"],
                                "properties": {
                                    "name": {"const": INPUT},
                                    "datatype": {"const": "FP32"},
                                    "shape": {"type": "array", "items": {"type": "integer"}},
                                    "data": {"type": "array", "items": {"type": "number"}},
                                },
                            },
                        },
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def build_router(service: Service) -> APIRouter:
    """All of `/v2`. Only the model of this project, in the version that answers now, is there."""
    router = APIRouter(prefix="/v2", tags=["KServe V2"])
    project = service.slot.project

    def find(name: str, number: str | None = None) -> LoadedModel:
        if name != project:
            raise HTTPException(404, f"There is no model {name!r} here; this server answers for {project!r}.")
        model = service.model()
        if number is not None and number != str(model.version):
            raise HTTPException(
                404, f"Version {number!r} of {name} does not answer here; version {model.version} does."
            )
        return model

    @router.get("", summary="The server")
    async def server() -> dict[str, Any]:
        return {"name": "tire-pipeline", "version": _package_version(), "extensions": [EXTENSION]}

    @router.get("/health/live", summary="Is the process alive")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", summary="Can it classify")
    async def ready() -> JSONResponse:
        is_ready = service.slot.current is not None
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @router.get("/models/{name}", summary="Inputs and outputs", responses=NOT_FOUND)
    @router.get("/models/{name}/versions/{number}", summary="Inputs and outputs", responses=NOT_FOUND)
    async def metadata(name: str, number: str | None = None) -> dict[str, Any]:
        model = find(name, number)
        return {
            "name": name,
            "versions": [str(model.version)],
            "platform": "onnxruntime",
            "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *model.input_shape]}],
            "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(model.bundle.classes)]}],
            "parameters": {"model_digest": model.bundle.digest, "classes": model.bundle.classes},
        }

    @router.get("/models/{name}/ready", summary="Is this model here", responses=NOT_FOUND)
    @router.get("/models/{name}/versions/{number}/ready", summary="Is this version here", responses=NOT_FOUND)
    async def model_ready(name: str, number: str | None = None) -> dict[str, Any]:
        find(name, number)
        return {"name": name, "ready": True}

    documented: dict[str, Any] = {
        "summary": "Probabilities of prepared images",
        "responses": {**NOT_FOUND, **ERRORS, 415: {"model": ErrorAnswer, "description": "A compressed body"}},
        "openapi_extra": INFER_BODY,
    }

    @router.post("/models/{name}/infer", **documented)
    @router.post("/models/{name}/versions/{number}/infer", **documented)
    async def infer(request: Request, name: str, number: str | None = None) -> Response:
        """Input `images` FP32 (B, 3, H, W), normalised as the bundle says; output `probabilities` FP32 (B, K). As JSON
        numbers, or raw behind the JSON with `binary_data_size` and the header `Inference-Header-Content-Length`.
        """
        find(name, number)
        if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
            raise HTTPException(415, f"The body is encoded with {encoding[:20]!r}; send it as it is.")
        body = await request.body()
        model = find(name, number)
        request.state.model_version = model.version
        read = partial(
            read_infer_request,
            body,
            header_length=request.headers.get(HEADER_LENGTH),
            shape_CHW=model.input_shape,
            max_images=service.limits.max_images,
        )
        parsed = await asyncio.get_running_loop().run_in_executor(service.pool, read)
        answer = infer_answer(parsed, model, await service.predictor.infer(model, parsed.x_BCHW), name=name)
        if answer.header_length is None:
            return Response(answer.body, media_type="application/json")
        return Response(
            answer.body,
            media_type="application/octet-stream",
            headers={HEADER_LENGTH: str(answer.header_length)},
        )

    return router


def _package_version() -> str:
    try:
        return version("tire-pipeline")
    except PackageNotFoundError:  # run from a checkout
        return "0"
