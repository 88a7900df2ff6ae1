"""KServe V2 requests and answers on the wire: tensors as JSON numbers, or raw behind the JSON
(https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html).

Legend: B images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tire_pipeline.bundle import Floats
from tire_pipeline.errors import InputError
from tire_pipeline.serving.model import LoadedModel

INPUT, OUTPUT = "images", "probabilities"
EXTENSION = "binary_tensor_data"
HEADER_LENGTH = "Inference-Header-Content-Length"
RAW_FP32 = np.dtype("<f4")
BESIDE_MAX = 1000  # values, lists and strings of a request beside its tensor
VALUE_MAX = 1e4


@dataclass(frozen=True)
class InferRequest:
    """A checked request: prepared images (B, C, H, W), finite, and whether the answer is wanted raw."""

    id: str | None
    x_BCHW: Floats
    raw_answer: bool = False


@dataclass(frozen=True)
class InferAnswer:
    """The body of an answer; `header_length` is its JSON's, None where there is nothing but JSON."""

    body: bytes
    header_length: int | None = None


def read_infer_request(
    body: bytes, *, header_length: str | None = None, shape_CHW: tuple[int, int, int], max_images: int
) -> InferRequest:
    """Check and read a request; `header_length` is what the header of that name says.

    Raises InputError naming what was found and what is expected.
    """
    text, raw = _split(body, header_length)
    _check_extent(text, shape_CHW, max_images)
    record = _record(text)
    raw_answer = _wants_raw(record)
    request_id = record.get("id")
    return InferRequest(
        id=None if request_id is None else str(request_id),
        x_BCHW=_read_tensor(_only_input(record.get("inputs")), raw, shape_CHW, max_images),
        raw_answer=raw_answer,
    )


def infer_answer(request: InferRequest, model: LoadedModel, p_BK: Floats, *, name: str) -> InferAnswer:
    """The protocol's answer; `parameters` names the bundle that computed it."""
    raw = p_BK.astype(RAW_FP32).tobytes() if request.raw_answer else None
    values = {"data": p_BK.ravel().tolist()} if raw is None else {"parameters": {"binary_data_size": len(raw)}}
    record = {
        "model_name": name,
        "model_version": str(model.version),
        **({} if request.id is None else {"id": request.id}),
        "parameters": {"model_digest": model.bundle.digest},
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": list(p_BK.shape), **values}],
    }
    header = json.dumps(record, separators=(",", ":")).encode()
    return InferAnswer(header) if raw is None else InferAnswer(header + raw, len(header))


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes | None]:
    """The JSON and the bytes behind it; None for a body that is JSON to its end."""
    length = str(len(body)) if header_length is None else header_length
    if not length.isdecimal() or len(length) > 12 or int(length) > len(body):
        raise InputError(
            f"{HEADER_LENGTH} is {length[:20]!r}; it is the length of the body's JSON, at most {len(body)} here."
        )
    return body[: int(length)], None if header_length is None else body[int(length) :]


def _check_extent(text: bytes, shape_CHW: tuple[int, int, int], max_images: int) -> None:
    """JSON holds no more than the largest tensor: parsed, `[],` takes 30 times its length, and a number at most 9."""
    channels, height, width = shape_CHW
    lists = max_images * (1 + channels * (1 + height))
    most = {",": max_images * channels * height * width, "[": lists, "{": 0, '"': 0}
    signs = np.frombuffer(text, np.uint8)
    if any(np.count_nonzero(signs == ord(sign)) > n + BESIDE_MAX for sign, n in most.items()):
        raise InputError(
            f"The JSON holds more than {max_images} images of {list(shape_CHW)} need, the most that are taken at once. "
            "Send fewer images."
        )


def _record(text: bytes) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The body is no JSON ({str(error)[:200]}).") from error
    if not isinstance(record, dict):
        raise InputError("The body must be a JSON object with `inputs`.")
    return record


def _parameters(record: dict[str, Any]) -> dict[str, Any]:
    parameters = record.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InputError("`parameters` must be a JSON object.")
    return parameters


def _wants_raw(record: dict[str, Any]) -> bool:
    """Whether the one output is wanted raw: what the output itself says goes before what the request says."""
    by_request = _parameters(record).get("binary_data_output", False)
    outputs = record.get("outputs")
    if outputs is None or outputs == []:
        return by_request is True
    if not isinstance(outputs, list) or any(not isinstance(o, dict) or o.get("name") != OUTPUT for o in outputs):
        raise InputError(f"`outputs` may only name {OUTPUT!r}; this model has no other output.")
    parameters = _parameters(outputs[0])
    if "classification" in parameters:
        raise InputError("The extension `classification` is not offered; the model's metadata names the classes.")
    return parameters.get("binary_data", by_request) is True


def _only_input(inputs: Any) -> dict[str, Any]:
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InputError(f"`inputs` must be a list with one tensor, {INPUT!r}.")
    if inputs[0].get("name") != INPUT:
        raise InputError(f"The input is named {inputs[0].get('name')!r}; this model takes {INPUT!r}.")
    return cast("dict[str, Any]", inputs[0])


def _read_tensor(tensor: dict[str, Any], raw: bytes | None, shape_CHW: tuple[int, int, int], max_images: int) -> Floats:
    shape = tensor.get("shape")
    if tensor.get("datatype") != "FP32":
        raise InputError(f"{INPUT!r} has datatype {tensor.get('datatype')!r}; this model takes 'FP32'.")
    if (
        not isinstance(shape, list)
        or len(shape) != 4
        or tuple(shape[1:]) != shape_CHW
        or {*map(type, shape[1:])} != {int}
    ):
        raise InputError(f"{INPUT!r} has shape {shape!r}; this model takes {[-1, *shape_CHW]}.")
    if type(shape[0]) is not int or not 1 <= shape[0] <= max_images:
        raise InputError(f"{INPUT!r} holds {shape[0]!r} images; 1 to {max_images} are taken at once.")
    count = int(np.prod(shape))
    size = _parameters(tensor).get("binary_data_size")
    x = _numbers(tensor.get("data"), count) if size is None and not raw else _raw_numbers(raw, size, count)
    if not np.isfinite(x).all():
        raise InputError(f"The data of {INPUT!r} holds numbers that are infinite or not a number.")
    if (largest := float(np.abs(x).max(initial=0.0))) > VALUE_MAX:
        raise InputError(
            f"The data of {INPUT!r} holds {largest:g}, but a picture that is normalised has values around 3, and over "
            f"{VALUE_MAX:g} a model's own numbers may overflow."
        )
    return x.reshape(shape)


def _numbers(data: Any, count: int) -> Floats:
    try:
        values = np.asarray(data)
        with np.errstate(over="ignore"):
            x = values.astype(np.float32) if values.dtype.kind in "fiu" else None
    except ValueError as error:
        raise InputError(f"The data of {INPUT!r} is no rectangular list of numbers.") from error
    if x is None or x.size != count:
        raise InputError(f"The data of {INPUT!r} must be {count} numbers.")
    return x


def _raw_numbers(raw: bytes | None, size: Any, count: int) -> Floats:
    expected = count * RAW_FP32.itemsize
    if raw is None or size != len(raw) or size != expected:
        found = "nothing" if raw is None else f"{len(raw)} bytes"
        raise InputError(
            f"{INPUT!r} announces binary_data_size {size!r} and {found} follow the JSON; {expected} bytes must, and "
            f"{HEADER_LENGTH} says where they start."
        )
    return np.frombuffer(raw, RAW_FP32).astype(np.float32)
