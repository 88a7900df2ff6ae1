"""What is trained, and how: one frozen record, checked whole before anything starts.

Light on purpose: the Airflow form and the command line read it without loading torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from tire_pipeline.errors import InputError
from tire_pipeline.refs import WeightsRef
from tire_pipeline.training.recipes import FROM_SCRATCH, NO_WEIGHTS, RECIPES, is_timm, recipe

OPTIMIZERS = ("adam", "adamw", "sgd")
LOSSES = ("cross_entropy", "focal")
AUGMENTATIONS = ("none", "base", "light", "crop", "custom", "auto", "trivial", "randaug")
UNAUGMENTED = ("none", "base")  # two names for one thing: images are resized and normalised in any case
HEADS = ("linear", "mlp")
RESIZES = ("stretch", "crop")


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

    head: str = "linear"
    dropout: float | None = None
    """Of the head; None is the network's own."""
    weights: str = NO_WEIGHTS
    """`none`, `imagenet`, or the name of a file that TIRE_WEIGHTS lists."""
    pretrained: WeightsRef | None = None
    """What `weights` turned out to be. The training fills it in, so that the configuration says all."""
    fixed_norms: bool = False
    """Whether batch norm keeps the statistics of the pretrained weights."""
    resize: str = "stretch"
    """`stretch` both sides to the size, or keep the sides' ratio and `crop` what the size leaves out, at the middle."""

    def __post_init__(self) -> None:
        pretrained: Any = self.pretrained
        if isinstance(pretrained, dict):  # out of JSON
            object.__setattr__(self, "pretrained", WeightsRef.from_dict(pretrained))
        if problems := [p for p in _problems(self) if p]:
            raise InputError(f"The training configuration cannot be used: {'; '.join(problems)}.")

    @classmethod
    def of(cls, model_type: str, **overrides: Any) -> TrainingConfig:
        """The candidate's recipe with `overrides`; those that are None are left out, unknown names are refused."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(overrides.keys() - known):
            raise InputError(f"Unknown training options: {', '.join(unknown)}. Known are: {', '.join(sorted(known))}.")
        given = {k: v for k, v in overrides.items() if v is not None}
        return cls(model_type=model_type, **{**recipe(model_type, weights=given.get("weights", NO_WEIGHTS)), **given})

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
        if problem := _unknown_network(name):
            raise InputError(f"The candidates cannot be used: {problem}.")
    return unique


def options() -> set[str]:
    """The fields that may be asked for: all but the candidate's name, and what a training fills in itself."""
    return {f.name for f in fields(TrainingConfig)} - {"model_type", "pretrained"}


def merge_form(form: Mapping[str, Any]) -> dict[str, Any]:
    """The training fields of a trigger form, without those left empty."""
    known = options()
    return {k: v for k, v in form.items() if k in known and v not in (None, "")}


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) out of `224` or `320x256`. Raises InputError for anything else."""
    sides = text.lower().replace("×", "x").split("x")
    if not all(side.strip().isdecimal() for side in sides) or len(sides) > 2:
        raise InputError(f"The image size is {text!r}, but looks like 224, or like 320x256 for height x width.")
    return int(sides[0]), int(sides[-1])


def _problems(c: TrainingConfig) -> list[str]:
    return [
        *_network_problems(c),
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
    ]


def _network_problems(c: TrainingConfig) -> list[str]:
    return [
        _unknown_network(c.model_type),
        _unknown("head", c.head, HEADS),
        "" if c.dropout is None else _outside("dropout", c.dropout, 0, 0.9),
        "" if isinstance(c.weights, str) and c.weights else f"weights is {c.weights!r}, but must be a name",
        f"weights is {c.weights!r}, but {c.model_type} is trained from scratch (leave it at {NO_WEIGHTS})"
        if c.model_type in FROM_SCRATCH and c.weights != NO_WEIGHTS
        else "",
        "" if isinstance(c.fixed_norms, bool) else f"fixed_norms is {c.fixed_norms!r}, but must be true or false",
        _unknown("resize", c.resize, RESIZES),
    ]


def _unknown_network(name: str) -> str:
    return "" if is_timm(name) else _unknown("model_type", name, (*RECIPES, "timm:<name>"))


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
