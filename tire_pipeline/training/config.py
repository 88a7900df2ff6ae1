"""What is trained, and how: one frozen record, checked whole before anything starts.

Light on purpose: the Airflow form and the command line read it without loading torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from tire_pipeline.errors import InputError
from tire_pipeline.refs import WeightsRef
from tire_pipeline.training.options import OPTIONS, unknown
from tire_pipeline.training.recipes import FROM_SCRATCH, NO_WEIGHTS, RECIPES, is_timm, recipe


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
    freeze_epochs: int = 0
    """During which only the head learns, from a rate of its own course; then all does, from `unfreeze_factor` of it."""
    unfreeze_factor: float = 0.1
    frozen_until: str | None = None
    """The stage of the network, by its name there, up to which nothing ever learns: edges and textures of large sets
    serve small ones as they are. What it gives is kept where augmentation leaves an image but a few views."""
    device: str = "auto"
    precision: str = "auto"
    channels_last: bool = True
    compile: bool = False

    pooling: str = "mean"
    """`mean`: the network's own. `mean_max`: the largest activation of each channel beside its mean."""
    head: str = "linear"
    dropout: float | None = None
    """Of the head; None is the network's own."""
    weights: str = NO_WEIGHTS
    """`none`, `imagenet`, or the name of a file that TIRE_WEIGHTS lists."""
    pretrained: WeightsRef | None = None
    """What `weights` turned out to be. The training fills it in, so that the configuration says all."""
    fixed_norms: bool = False
    """Whether batch norm keeps the statistics of the pretrained weights."""
    views: int = 1
    """In how many ways an image is laid (as it is, mirrored, upended, both) for the mean of the answers, which takes as
    many times longer."""
    resize: str = "stretch"
    """`stretch` both sides to the size, or keep the sides' ratio and `crop` what the size leaves out, at the middle."""
    cost_miss: float | None = None
    """What a missed positive image costs, in any unit; with `cost_alarm` it chooses the threshold. None: a class counts
    as much as the other."""
    cost_alarm: float | None = None
    cost_review: float | None = None
    """What it costs when a person looks; it sets the review band. None: a fifth of the way from the threshold."""
    min_recall: float | None = None
    """The recall on validation images that the threshold must not fall below."""

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


def merge_form(form: Mapping[str, Any]) -> dict[str, Any]:
    """The training fields of a trigger form, without those left empty."""
    return {k: v for k, v in form.items() if k in OPTIONS and v not in (None, "")}


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) out of `224` or `320x256`. Raises InputError for anything else."""
    sides = text.lower().replace("×", "x").split("x")
    if not all(side.strip().isdecimal() for side in sides) or len(sides) > 2:
        raise InputError(f"The image size is {text!r}, but looks like 224, or like 320x256 for height x width.")
    return int(sides[0]), int(sides[-1])


def _problems(c: TrainingConfig) -> list[str]:
    problems = [option.problem(field, getattr(c, field)) for field, option in OPTIONS.items()]
    return [_unknown_network(c.model_type), *problems, *_contradictions(c)]


def _contradictions(c: TrainingConfig) -> list[str]:
    """What each field allows and all together do not."""
    found = []
    if isinstance(c.accumulation, int) and isinstance(c.batch_size, int) and 2 * c.accumulation > c.batch_size:
        found.append(f"accumulation is {c.accumulation}, which leaves less than 2 images of a batch of {c.batch_size}")
    if c.scheduler in ("one_cycle", "plateau") and c.warmup_epochs:
        found.append(f"warmup_epochs is {c.warmup_epochs}, but {c.scheduler} has no warm-up to set")
    if c.loss == "f1" and c.class_weights != "none":
        found.append("class_weights are for cross_entropy and focal: f1 counts every class the same by itself")
    if c.model_type in FROM_SCRATCH and c.weights != NO_WEIGHTS:
        found.append(f"weights is {c.weights!r}, but {c.model_type} is trained from scratch (leave it at {NO_WEIGHTS})")
    if (c.cost_miss is None) != (c.cost_alarm is None):
        found.append("cost_miss and cost_alarm are given together, or neither is")
    if c.cost_review is not None and c.cost_miss is None:
        found.append("cost_review means nothing without cost_miss and cost_alarm")
    if c.model_type in FROM_SCRATCH and c.pooling != "mean":
        found.append(f"pooling is {c.pooling!r}, but {c.model_type} pools in a way of its own (leave it at mean)")
    return found


def _unknown_network(name: str) -> str:
    return "" if is_timm(name) else unknown("model_type", name, (*RECIPES, "timm:<name>"))
