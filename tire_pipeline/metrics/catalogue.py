"""The metrics by name."""

from __future__ import annotations

from tire_pipeline.errors import InputError

LOWER_IS_BETTER = frozenset({"log_loss", "brier", "ece", "cost"})
ALIASES = {"loss": "log_loss"}
ALWAYS = ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "log_loss", "brier", "ece")
OF_THE_POSITIVE_CLASS = ("precision", "recall", "specificity", "auroc", "auprc", "cost")


def names(*, has_positive: bool) -> list[str]:
    """The metrics that `point` gives, with a positive class or without."""
    return [*ALWAYS, *OF_THE_POSITIVE_CLASS] if has_positive else list(ALWAYS)


def canonical(metric: str, known: list[str]) -> str:
    """The metric's name as MLflow has it without `test/`: `Loss` is `log_loss`. InputError lists the known ones."""
    name = metric.strip().lower().removeprefix("test/").replace(" ", "_").replace("-", "_")
    name = ALIASES.get(name, name)
    if name not in known:
        raise InputError(f"{metric!r} is no metric. Known are: {', '.join(sorted(known))}.")
    return name


def of_label(name: str, label: str) -> str:
    """The metric's name among those of several labels; its own where there is one label, ""."""
    return f"{label}/{name}" if label else name


def better(metric: str, a: float, b: float) -> bool:
    """Whether value `a` of the metric is strictly better than `b`."""
    return a < b if metric in LOWER_IS_BETTER else a > b
