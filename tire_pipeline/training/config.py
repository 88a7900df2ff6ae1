"""What is trained, and how: one frozen record, checked whole before anything starts.

Light on purpose: the Airflow form and the command line read it without loading torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from tire_pipeline.errors import InputError

OPTIMIZERS = ("adam", "adamw", "sgd")
LOSSES = ("cross_entropy", "focal")
AUGMENTATIONS = ("none", "light", "crop")

# What each candidate starts from; every field can be overridden.
RECIPES: dict[str, dict[str, Any]] = {
    "cnn": {"epochs": 16, "image_height": 96, "image_width": 96},
    "tiny_vgg": {"epochs": 12, "image_height": 64, "image_width": 64},
    "resnet18": {"epochs": 4, "batch_size": 32, "learning_rate": 1e-3, "image_height": 64, "image_width": 64},
}


@dataclass(frozen=True)
class TrainingConfig:
    """One candidate's configuration. Raises InputError that names every field that cannot be used."""

    model_type: str
    epochs: int = 20
    batch_size: int = 16
    learning_rate: float = 2e-3
    optimizer_type: str = "adamw"
    loss: str = "cross_entropy"
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    augmentation: str = "light"
    image_height: int = 112
    image_width: int = 112
    seed: int = 0
    threads: int = 0
    """Of the CPU; 0 takes all. It may change results in the last digits, so it is part of the configuration."""
    cost_miss: float | None = None
    """What a missed positive image costs, in any unit; with `cost_alarm` it chooses the threshold. None: a class counts
    as much as the other."""
    cost_alarm: float | None = None
    cost_review: float | None = None
    """What it costs when a person looks; it sets the review band. None: a fifth of the way from the threshold."""
    min_recall: float | None = None
    """The recall on validation images that the threshold must not fall below."""

    def __post_init__(self) -> None:
        if problems := [p for p in _problems(self) if p]:
            raise InputError(f"The training configuration cannot be used: {'; '.join(problems)}.")

    @classmethod
    def of(cls, model_type: str, **overrides: Any) -> TrainingConfig:
        """The candidate's recipe with `overrides`; those that are None are left out, unknown names are refused."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(overrides.keys() - known):
            raise InputError(f"Unknown training options: {', '.join(unknown)}. Known are: {', '.join(sorted(known))}.")
        given = {k: v for k, v in overrides.items() if v is not None}
        return cls(model_type=model_type, **{**RECIPES.get(model_type, {}), **given})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_candidates(given: str | Sequence[str]) -> list[str]:
    """Candidate names out of a list or `cnn,resnet18`, once each in their order; InputError for an unknown one or
    none."""
    names = [n.strip() for n in given.split(",") if n.strip()] if isinstance(given, str) else list(given)
    unique = list(dict.fromkeys(names))
    if not unique:
        raise InputError(f"No candidate was named. Choose from: {', '.join(RECIPES)}.")
    for name in unique:
        if problem := _unknown("model_type", name, tuple(RECIPES)):
            raise InputError(f"The candidates cannot be used: {problem}.")
    return unique


def merge_form(form: Mapping[str, Any]) -> dict[str, Any]:
    """The training fields of a trigger form, without those left empty."""
    known = {f.name for f in fields(TrainingConfig)} - {"model_type"}
    return {k: v for k, v in form.items() if k in known and v not in (None, "")}


def _problems(c: TrainingConfig) -> list[str]:
    return [
        _unknown("model_type", c.model_type, tuple(RECIPES)),
        _unknown("optimizer_type", c.optimizer_type, OPTIMIZERS),
        _unknown("loss", c.loss, LOSSES),
        _unknown("augmentation", c.augmentation, AUGMENTATIONS),
        _outside("epochs", c.epochs, 1, 10_000, whole=True),
        _outside("batch_size", c.batch_size, 2, 4096, whole=True),
        _outside("learning_rate", c.learning_rate, 1e-8, 10),
        _outside("weight_decay", c.weight_decay, 0, 1),
        _outside("label_smoothing", c.label_smoothing, 0, 0.5),
        _outside("image_height", c.image_height, 32, 2048, whole=True),
        _outside("image_width", c.image_width, 32, 2048, whole=True),
        _outside("seed", c.seed, 0, 2**32 - 1, whole=True),
        _outside("threads", c.threads, 0, 1024, whole=True),
        *_operating_point(c),
    ]


def _operating_point(c: TrainingConfig) -> list[str]:
    """Problems of what decides the threshold; an empty field is none."""
    limits = {"cost_miss": (1e-6, 1e9), "cost_alarm": (1e-6, 1e9), "cost_review": (0, 1e9), "min_recall": (0, 1)}
    given = {name: getattr(c, name) for name in limits if getattr(c, name) is not None}
    problems = [_outside(name, value, *limits[name]) for name, value in given.items()]
    if (c.cost_miss is None) != (c.cost_alarm is None):
        problems.append("cost_miss and cost_alarm are given together, or neither is")
    if c.cost_review is not None and c.cost_miss is None:
        problems.append("cost_review means nothing without cost_miss and cost_alarm")
    return problems


def _unknown(field: str, value: object, known: tuple[str, ...]) -> str:
    if value in known:
        return ""
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"{field} is {value!r}{hint} (known: {', '.join(known)})"


def _outside(field: str, value: object, low: float, high: float, *, whole: bool = False) -> str:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return f"{field} is {value!r}, but must be a {'whole ' if whole else ''}number"
    return "" if low <= value <= high else f"{field} is {value}, but must be between {low:g} and {high:g}"
