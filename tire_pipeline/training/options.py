"""What may be asked of a training: every field of a configuration once, with its limits and what it means.

The configuration's checks, the command line's options and the Airflow form are made from this table. Light: none of
them loads torch.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

OPTIMIZERS = ("adam", "adamw", "nadam", "radam", "rmsprop", "sgd")
SCHEDULERS = ("one_cycle", "cosine", "step", "plateau", "constant")
LOSSES = ("cross_entropy", "focal", "f1")
CLASS_WEIGHTS = ("none", "balanced")
MIXINGS = ("none", "mixup", "cutmix", "both")
MONITORS = ("log_loss", "accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "brier", "ece")
DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
AUGMENTATIONS = ("none", "base", "flips", "light", "crop", "custom", "auto", "trivial", "randaug")
UNAUGMENTED = ("none", "base")  # two names for one thing: images are resized and normalised in any case
HEADS = ("linear", "mlp")
POOLINGS = ("mean", "mean_max")
RESIZES = ("stretch", "crop")

TRAINING, NETWORK, MACHINE, GATE = "Training", "Network and images", "Machine", "Costs and gate"


@dataclass(frozen=True)
class Option:
    """One field: of which kind, in which section of a form, what it means, and which values it takes."""

    kind: type
    section: str
    help: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    optional: bool = False

    def problem(self, field: str, value: object) -> str:
        """What is wrong with a value, or nothing."""
        if value is None and self.optional:
            return ""
        if self.choices:
            return unknown(field, value, self.choices)
        if self.kind is bool:
            return "" if isinstance(value, bool) else f"{field} is {value!r}, but must be true or false"
        if self.kind is str:
            return "" if isinstance(value, str) and value else f"{field} is {value!r}, but must be a name"
        return self._outside(field, value)

    def _outside(self, field: str, value: object) -> str:
        whole = self.kind is int
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            return f"{field} is {value!r}, but must be a {'whole ' if whole else ''}number"
        if self.low <= value <= self.high:
            return ""
        return f"{field} is {value}, but must be between {self.low:g} and {self.high:g}"


def _number(section: str, low: float, high: float, help: str, *, optional: bool = False) -> Option:  # noqa: A002
    return Option(float, section, help, low=low, high=high, optional=optional)


def _whole(section: str, low: int, high: int, help: str) -> Option:  # noqa: A002
    return Option(int, section, help, low=low, high=high)


def _choice(section: str, choices: tuple[str, ...], help: str) -> Option:  # noqa: A002
    return Option(str, section, help, choices=choices)


OPTIONS: dict[str, Option] = {
    "epochs": _whole(TRAINING, 1, 10_000, "Passes over the training images."),
    "batch_size": _whole(TRAINING, 2, 4096, "Images a step."),
    "learning_rate": _number(TRAINING, 1e-8, 10, "The highest rate of the schedule."),
    "optimizer_type": _choice(TRAINING, OPTIMIZERS, "What turns gradients into steps."),
    "scheduler": _choice(TRAINING, SCHEDULERS, "The course of the learning rate."),
    "warmup_epochs": _whole(TRAINING, 0, 1000, "Over which cosine, step and constant rise from nothing."),
    "step_epochs": _whole(TRAINING, 1, 10_000, "How long step waits, and plateau for a better one, to lower the rate."),
    "step_factor": _number(TRAINING, 1e-4, 1, "What step and plateau multiply the rate with."),
    "loss": _choice(TRAINING, LOSSES, "What is made small."),
    "class_weights": _choice(TRAINING, CLASS_WEIGHTS, "balanced: rare classes count as much as frequent ones."),
    "label_smoothing": _number(TRAINING, 0, 0.5, "The share of a label that is given to all classes."),
    "weight_decay": _number(TRAINING, 0, 1, "Of matrices and filters."),
    "gradient_clip": _number(TRAINING, 0, 1e6, "The largest norm of all gradients together; 0 leaves them."),
    "accumulation": _whole(TRAINING, 1, 4096, "Parts of a batch that are computed one after another, to save memory."),
    "ema_decay": _number(TRAINING, 0, 0.99999, "Of the running mean of the weights, which is then kept; 0 has none."),
    "mixing": _choice(TRAINING, MIXINGS, "Images that are mixed, with their labels."),
    "mixing_alpha": _number(TRAINING, 1e-3, 100, "Both parameters of the Beta distribution of their shares."),
    "monitor": _choice(TRAINING, MONITORS, "The validation metric whose best epoch is kept."),
    "patience": _whole(TRAINING, 0, 10_000, "Epochs without a better one after which training stops; 0 never does."),
    "freeze_epochs": _whole(TRAINING, 0, 10_000, "During which only the head learns."),
    "unfreeze_factor": _number(TRAINING, 1e-4, 1, "What the rate is multiplied with once everything learns."),
    "frozen_until": Option(str, TRAINING, "The stage up to which nothing learns: blocks.4, layer3.", optional=True),
    "weights": Option(str, NETWORK, "To start from: none, imagenet, or the name of a file in TIRE_WEIGHTS."),
    "pooling": _choice(NETWORK, POOLINGS, "Of the last activations: the mean, or the largest too, for small defects."),
    "head": _choice(NETWORK, HEADS, "What turns features into classes."),
    "dropout": _number(NETWORK, 0, 0.9, "Of the head; by default the network's own.", optional=True),
    "fixed_norms": Option(bool, NETWORK, "Batch norm keeps the statistics of the weights."),
    "views": _whole(NETWORK, 1, 4, "Of an image (as it is, mirrored, upended, both) whose answers are averaged."),
    "augmentation": _choice(NETWORK, AUGMENTATIONS, "How training images are varied."),
    "image_height": _whole(NETWORK, 32, 2048, "In pixels."),
    "image_width": _whole(NETWORK, 32, 2048, "In pixels."),
    "resize": _choice(NETWORK, RESIZES, "To that size: stretch the sides, or keep their ratio and crop the borders."),
    "cost_miss": _number(GATE, 1e-6, 1e9, "Of a missed defect, in any unit; chooses the threshold.", optional=True),
    "cost_alarm": _number(GATE, 1e-6, 1e9, "Of a false alarm. Without it a class counts as much.", optional=True),
    "cost_review": _number(GATE, 0, 1e9, "Of a look by a person; sets the review band.", optional=True),
    "min_recall": _number(GATE, 0, 1, "Of defects: the threshold keeps it, and the gate demands it.", optional=True),
    "seed": _whole(MACHINE, 0, 2**32 - 1, "Of weights, order and augmentation."),
    "threads": _whole(MACHINE, 0, 1024, "Of the CPU; 0 takes all."),
    "device": _choice(MACHINE, DEVICES, "Where it computes; auto takes the best one here."),
    "precision": _choice(MACHINE, PRECISIONS, "Of the arithmetic; auto takes what is fast and safe on the device."),
    "channels_last": Option(bool, MACHINE, "The memory layout that most devices compute fastest with."),
    "compile": Option(bool, MACHINE, "Let torch compile the network first, for a minute."),
}


def unknown(field: str, value: object, known: tuple[str, ...]) -> str:
    """That the value is none of the known ones, with the nearest; or nothing."""
    if value in known:
        return ""
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"{field} is {value!r}{hint} (known: {', '.join(known)})"
