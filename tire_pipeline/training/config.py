"""What is trained, and how: one frozen record, checked whole before anything starts.

Light on purpose: the Airflow form and the command line read it without loading torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from tire_pipeline.errors import InputError

OPTIMIZERS = ("adam", "adamw", "nadam", "radam", "rmsprop", "sgd")
SCHEDULERS = ("one_cycle", "cosine", "step", "plateau", "constant")
LOSSES = ("cross_entropy", "focal", "f1")
CLASS_WEIGHTS = ("none", "balanced")
MIXINGS = ("none", "mixup", "cutmix", "both")
MONITORS = ("log_loss", "accuracy", "balanced_accuracy", "f1_macro", "brier", "ece")
DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
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
    scheduler: str = "one_cycle"
    """`learning_rate` is its highest rate."""
    warmup_epochs: int = 0
    """Over which cosine, step and constant rise from nothing; one_cycle has a rise of its own, a fifth of the steps."""
    step_epochs: int = 5
    """How long step waits, and plateau for a better epoch, before the rate is multiplied with `step_factor`."""
    step_factor: float = 0.3
    class_weights: str = "none"
    gradient_clip: float = 0.0
    """The largest norm of all gradients together; 0 leaves them."""
    accumulation: int = 1
    """Into how many parts a batch is cut to fit into memory; the weights change once a batch all the same."""
    ema_decay: float = 0.0
    """Of the running mean of the weights, which is then what is measured and kept; 0 has none."""
    mixing: str = "none"
    mixing_alpha: float = 0.2
    """Both parameters of the Beta distribution of the shares (Zhang et al., ICLR 2018; Yun et al., ICCV 2019)."""
    monitor: str = "log_loss"
    """The validation metric whose best epoch is kept."""
    patience: int = 0
    """Epochs without a better one after which training stops; 0 never does."""
    device: str = "auto"
    precision: str = "auto"
    channels_last: bool = True
    compile: bool = False

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
        _unknown("scheduler", c.scheduler, SCHEDULERS),
        _outside("warmup_epochs", c.warmup_epochs, 0, 1000, whole=True),
        _outside("step_epochs", c.step_epochs, 1, 10_000, whole=True),
        _outside("step_factor", c.step_factor, 1e-4, 1),
        _unknown("class_weights", c.class_weights, CLASS_WEIGHTS),
        _outside("gradient_clip", c.gradient_clip, 0, 1e6),
        _outside("accumulation", c.accumulation, 1, 4096, whole=True),
        _outside("ema_decay", c.ema_decay, 0, 0.99999),
        _unknown("mixing", c.mixing, MIXINGS),
        _outside("mixing_alpha", c.mixing_alpha, 1e-3, 100),
        _unknown("monitor", c.monitor, MONITORS),
        _outside("patience", c.patience, 0, 10_000, whole=True),
        _unknown("device", c.device, DEVICES),
        _unknown("precision", c.precision, PRECISIONS),
        _no_switch("channels_last", c.channels_last),
        _no_switch("compile", c.compile),
        *_contradictions(c),
    ]


def _contradictions(c: TrainingConfig) -> list[str]:
    """What each field allows and all together do not."""
    found = []
    if isinstance(c.accumulation, int) and isinstance(c.batch_size, int) and 2 * c.accumulation > c.batch_size:
        found.append(f"accumulation is {c.accumulation}, which leaves less than 2 images of a batch of {c.batch_size}")
    if c.scheduler in ("one_cycle", "plateau") and c.warmup_epochs:
        found.append(f"warmup_epochs is {c.warmup_epochs}, but {c.scheduler} has no warm-up to set")
    if c.loss == "f1" and c.class_weights != "none":
        found.append("class_weights are for cross_entropy and focal: f1 counts every class the same by itself")
    return found


def _no_switch(field: str, value: object) -> str:
    return "" if isinstance(value, bool) else f"{field} is {value!r}, but must be true or false"


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
