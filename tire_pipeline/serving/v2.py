"""KServe's V2 inference protocol over JSON tensors
(https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol).

Legend: B images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse

from tire_pipeline.bundle import Floats
from tire_pipeline.errors import InputError
from tire_pipeline.serving.model import LoadedModel
from tire_pipeline.serving.routes import ERRORS
from tire_pipeline.serving.schemas import ErrorAnswer
from tire_pipeline.serving.service import Service

INPUT, OUTPUT = "images", "probabilities"
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "No such model or version"}}


@dataclass(frozen=True)
class InferRequest:
    """A checked request: prepared images (B, C, H, W), finite."""

    id: str | None
    x_BCHW: Floats


def read_infer_request(body: bytes, *, shape_CHW: tuple[int, int, int], max_images: int) -> InferRequest:
    """Check and read a JSON request. Raises InputError naming what was found and what is expected."""
    try:
        record = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The body is no JSON ({str(error)[:200]}).") from error
    if not isinstance(record, dict):
        raise InputError("The body must be a JSON object with `inputs`.")
    _check_outputs(record.get("outputs"))
    request_id = record.get("id")
    return InferRequest(
        id=None if request_id is None else str(request_id),
        x_BCHW=_read_tensor(_only_input(record.get("inputs")), shape_CHW, max_images),
    )


def infer_answer(request: InferRequest, model: LoadedModel, p_BK: Floats, *, name: str) -> dict[str, Any]:
    """The protocol's answer; `parameters` names the bundle that computed it."""
    output = {"name": OUTPUT, "datatype": "FP32", "shape": list(p_BK.shape), "data": p_BK.ravel().tolist()}
    return {
        "model_name": name,
        "model_version": str(model.version),
        **({} if request.id is None else {"id": request.id}),
        "parameters": {"model_digest": model.bundle.digest},
        "outputs": [output],
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
        return {"name": "tire-pipeline", "version": _package_version(), "extensions": []}

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

    @router.post("/models/{name}/infer", summary="Probabilities of prepared images", responses={**NOT_FOUND, **ERRORS})
    @router.post(
        "/models/{name}/versions/{number}/infer",
        summary="Probabilities of prepared images",
        responses={**NOT_FOUND, **ERRORS},
    )
    async def infer(request: Request, name: str, number: str | None = None) -> dict[str, Any]:
        """Input `images` FP32 (B, 3, H, W), normalised as the bundle says; output `probabilities` FP32 (B, K)."""
        find(name, number)
        body = await request.body()
        model = find(name, number)
        request.state.model_version = model.version
        parsed = await asyncio.get_running_loop().run_in_executor(
            service.pool,
            lambda: read_infer_request(body, shape_CHW=model.input_shape, max_images=service.limits.max_images),
        )
        return infer_answer(parsed, model, await service.predictor.infer(model, parsed.x_BCHW), name=name)

    return router


def _only_input(inputs: Any) -> dict[str, Any]:
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InputError(f"`inputs` must be a list with one tensor, {INPUT!r}.")
    if inputs[0].get("name") != INPUT:
        raise InputError(f"The input is named {inputs[0].get('name')!r}; this model takes {INPUT!r}.")
    return cast("dict[str, Any]", inputs[0])


def _check_outputs(outputs: Any) -> None:
    if outputs is None:
        return
    if not isinstance(outputs, list) or any(not isinstance(o, dict) or o.get("name") != OUTPUT for o in outputs):
        raise InputError(f"`outputs` may only name {OUTPUT!r}; this model has no other output.")


def _read_tensor(tensor: dict[str, Any], shape_CHW: tuple[int, int, int], max_images: int) -> Floats:
    shape = tensor.get("shape")
    if tensor.get("datatype") != "FP32":
        raise InputError(f"{INPUT!r} has datatype {tensor.get('datatype')!r}; this model takes 'FP32'.")
    if not isinstance(shape, list) or len(shape) != 4 or tuple(shape[1:]) != shape_CHW:
        raise InputError(f"{INPUT!r} has shape {shape!r}; this model takes {[-1, *shape_CHW]}.")
    if type(shape[0]) is not int or not 1 <= shape[0] <= max_images:
        raise InputError(f"{INPUT!r} holds {shape[0]!r} images; 1 to {max_images} are taken at once.")
    try:
        values = np.asarray(tensor.get("data"))
        with np.errstate(over="ignore"):
            x = values.astype(np.float32) if values.dtype.kind in "fiu" else None
    except ValueError as error:
        raise InputError(f"The data of {INPUT!r} is no rectangular list of numbers.") from error
    if x is None or x.size != np.prod(shape):
        raise InputError(f"The data of {INPUT!r} must be {np.prod(shape)} numbers, for shape {shape}.")
    if not np.isfinite(x).all():
        raise InputError(f"The data of {INPUT!r} holds numbers that are infinite or not a number.")
    return x.reshape(shape)


def _package_version() -> str:
    try:
        return version("tire-pipeline")
    except PackageNotFoundError:  # run from a checkout
        return "0"
