"""What a pipeline run is asked to do, checked whole before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tire_pipeline.errors import InputError
from tire_pipeline.refs import check_version

if TYPE_CHECKING:
    from tire_pipeline.training.config import TrainingConfig


TARGETS = ("production", "staging", "none")
# Fields of the form and the limits of the gate that they set (see `registry.gate.Gate`).
GATE_LIMITS = {"max_ece": "ece_max", "min_slice": "slice_min", "recall_margin": "recall_margin", "alpha": "alpha"}


@dataclass(frozen=True)
class RunRequest:
    """What one pipeline run is asked to do, checked whole: the trigger form of `train_and_promote`."""

    version: str
    candidates: tuple[str, ...] = ("resnet18", "cnn", "tiny_vgg")
    metric: str = "balanced_accuracy"
    threshold: float = 0.75
    target: str = "production"
    seed: int = 0
    training: tuple[tuple[str, Any], ...] = ()
    approval: bool = False
    robust: bool = False
    max_bad: float | None = None
    max_probe: float | None = None
    gate: tuple[tuple[str, float], ...] = ()


def check_request(form: Mapping[str, Any]) -> RunRequest:
    """The request that a trigger form makes. Raises InputError for any field that cannot be used, known or not."""
    from tire_pipeline.metrics import canonical, names
    from tire_pipeline.training.config import merge_form, parse_candidates
    from tire_pipeline.training.options import OPTIONS

    own = {"dataset_version", "candidates", "more_candidates", "metric", "threshold", "target", "seed", "approval"}
    own |= {"robust", "max_bad", "max_probe", "slice_images", *GATE_LIMITS}
    training = merge_form({k: v for k, v in form.items() if k not in own})
    if unknown := sorted(form.keys() - own - OPTIONS.keys() - {"model_type"}):
        raise InputError(
            f"Unknown parameters: {', '.join(unknown)}. Known are: {', '.join(sorted(own))}, and training's."
        )
    default = RunRequest(version=check_version(str(form.get("dataset_version") or "")))
    target = form.get("target") or default.target
    if target not in TARGETS:
        raise InputError(f"target is {target!r}, but must be one of {', '.join(TARGETS)}.")
    request = replace(
        default,
        candidates=tuple(parse_candidates(_named(form) or list(default.candidates))),
        metric=canonical(str(form.get("metric") or default.metric), names(has_positive=True)),
        threshold=_number(form, "threshold", default.threshold),
        target=target,
        seed=_whole(form, "seed", default.seed),
        training=tuple(sorted(training.items())),
        approval=bool(form.get("approval")),
        robust=bool(form.get("robust")),
        max_bad=_share(form, "max_bad"),
        max_probe=_share(form, "max_probe"),
        gate=_gate_limits(form, training.get("min_recall")),
    )
    for candidate in request.candidates:  # a configuration that cannot be used is refused before anything starts
        training_config(request, candidate)
    return request


def _named(form: Mapping[str, Any]) -> str:
    """The names of both fields for candidates, the one to choose from and the one to write into."""
    chosen, more = form.get("candidates") or "", form.get("more_candidates") or ""
    return ",".join([*([chosen] if isinstance(chosen, str) else map(str, chosen)), str(more)]).strip(",")


def _number(form: Mapping[str, Any], field: str, default: float) -> float:
    value = default if form.get(field) in (None, "") else form[field]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{field} is {value!r}, but must be a number.")
    return number


def _share(form: Mapping[str, Any], field: str) -> float | None:
    if form.get(field) in (None, ""):
        return None
    share = _number(form, field, 0.0)
    if not 0 <= share <= 1:
        raise InputError(f"{field} is {share:g}, but must be a share between 0 and 1.")
    return share


def _gate_limits(form: Mapping[str, Any], min_recall: float | None) -> tuple[tuple[str, float], ...]:
    """The limits that were given. What the threshold must reach on validation, the gate demands on test."""
    given = {limit: _share(form, field) for field, limit in GATE_LIMITS.items()} | {"recall_min": min_recall}
    if form.get("slice_images") not in (None, ""):
        given["slice_images_min"] = _whole(form, "slice_images", 0)
    return tuple((limit, value) for limit, value in given.items() if value is not None)


def _whole(form: Mapping[str, Any], field: str, default: int) -> int:
    number = _number(form, field, default)
    if number != int(number):
        raise InputError(f"{field} is {form[field]!r}, but must be a whole number.")
    return int(number)


def training_config(request: RunRequest, candidate: str) -> TrainingConfig:
    """A candidate's configuration. Among several, those that have no ImageNet weights start from scratch."""
    from tire_pipeline.training.config import TrainingConfig
    from tire_pipeline.training.recipes import FROM_SCRATCH

    asked = dict(request.training)
    if len(request.candidates) > 1 and candidate in FROM_SCRATCH and asked.get("weights") == "imagenet":
        del asked["weights"]
    return TrainingConfig.of(candidate, **{**asked, "seed": request.seed})
