"""What a folder of pretrained weights says of its files, and which of them a training means. Pure.

    weights.json    {"files": [{"file": "mobilenet.safetensors", "sha256": "d22c…", "licence": "apache-2.0",
                     "architecture": "timm:mobilenetv2_100", "arguments": {"pad_type": "same"},
                     "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}]}
    SHA256SUMS      where there is no weights.json: `<sha256>  <file>` a line

Of an entry `file` and `sha256` must be there. `architecture` is a model type, `arguments` go to timm's constructor,
`mean` and `std` are ImageNet's unless stated.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from tire_pipeline.errors import InputError
from tire_pipeline.imaging import IMAGENET_MEAN, IMAGENET_STD
from tire_pipeline.refs import WeightsRef

MANIFEST, SUMS = "weights.json", "SHA256SUMS"
FROM_IMAGENET = "imagenet"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"file", "sha256", "architecture", "arguments", "licence", "mean", "std"}


def parse(name: str, text: str) -> list[WeightsRef]:
    """The entries of a manifest called `name`. Raises InputError naming the first that cannot be used."""
    if name == SUMS:
        lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
        return [_entry({"sha256": sha, "file": file.removeprefix("*")}, name) for sha, file in lines]
    try:
        return [_entry(record, name) for record in json.loads(text)["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{name} cannot be read ({error!r}). It looks like {{"files": [{{"file": …}}]}}.') from None


def choose(listed: Sequence[WeightsRef], weights: str, *, model_type: str) -> WeightsRef | None:
    """The listed weights that a training of `model_type` calls `weights`: a file's name, or `imagenet` for the one
    file of that architecture (None where none is listed). Raises InputError where the name fits nothing, or several.
    """
    if weights == FROM_IMAGENET:
        found = [ref for ref in listed if ref.architecture == model_type]
        if len(found) > 1:
            names = ", ".join(ref.file for ref in found)
            raise InputError(f"Several weights of {model_type} are listed. Name one of them: {names}.")
        return found[0] if found else None
    ref = next((ref for ref in listed if ref.file == weights), None)
    if ref is None:
        near = difflib.get_close_matches(weights, [r.file for r in listed], n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        files = ", ".join(r.file for r in listed) or "none; set TIRE_WEIGHTS to their folder"
        raise InputError(f"weights is {weights!r}{hint} (listed: {files}).")
    if ref.architecture not in ("", model_type):
        raise InputError(f"{weights} holds weights of {ref.architecture}, not of {model_type}. Train that one.")
    return ref


def _entry(record: dict[str, Any], name: str) -> WeightsRef:
    file, sha256 = str(record.get("file", "")), str(record.get("sha256", "")).lower()
    path = PurePosixPath(file)
    if not file or path.is_absolute() or ".." in path.parts or not _SHA256.fullmatch(sha256):
        raise InputError(
            f"{name}: the entry {str(record)[:120]} needs a `file` inside the folder and its `sha256` (64 hex digits)."
        )
    if unknown := sorted(record.keys() - _FIELDS):
        raise InputError(
            f"{name}: {file} has unknown fields: {', '.join(unknown)}. Known: {', '.join(sorted(_FIELDS))}."
        )
    return WeightsRef(
        file=file,
        sha256=sha256,
        architecture=str(record.get("architecture", "")),
        licence=str(record.get("licence", "")),
        mean=_triple(record.get("mean", IMAGENET_MEAN), file),
        std=_triple(record.get("std", IMAGENET_STD), file),
        arguments=dict(record.get("arguments", {})),
    )


def _triple(values: Sequence[float], file: str) -> tuple[float, float, float]:
    if len(values) != 3 or not all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in values):
        raise InputError(f"{file}: mean and std are three numbers from 0 to 1, but {values!r} was given.")
    red, green, blue = map(float, values)
    return red, green, blue
