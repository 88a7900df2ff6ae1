"""The page on a project at a glance: what is in production and in staging, what happened, what the data is like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment

SHARES = {"balanced_accuracy": "balanced accuracy", "recall": "recall", "precision": "precision", "auroc": "AUROC"}
FIGURES = {**SHARES, "ece": "calibration error (ECE)", "log_loss": "log loss", "cost": "cost an image"}
ACTIONS = {
    "registered": "registered",
    "staged": "put into staging",
    "produced": "put into production",
    "refused": "refused",
    "rolled_back": "rolled back",
}


@dataclass(frozen=True)
class Figure:
    """A metric on the test split with its 95 % interval; `share` where the best is 1 and the worst 0."""

    name: str
    value: float
    low: float | None
    high: float | None
    share: bool


@dataclass(frozen=True)
class Model:
    """A version and the aliases that point at it, the weightiest first. `metrics` are its run's; `moved` is the row of
    the history that put it behind the first."""

    aliases: tuple[str, ...]
    version: int
    candidate: str
    dataset_version: str
    run_url: str
    metrics: Mapping[str, float]
    moved: Mapping[str, Any] | None = None

    @property
    def figures(self) -> list[Figure]:
        """Those that its run has."""
        test = {key.removeprefix("test/"): value for key, value in self.metrics.items() if key.startswith("test/")}
        return [
            Figure(words, test[name], test.get(f"{name}_low"), test.get(f"{name}_high"), name in SHARES)
            for name, words in FIGURES.items()
            if name in test
        ]


@dataclass(frozen=True)
class Overview:
    """`history` are the ledger's rows, newest first; `data` the newest report's record (`validation.report`), with its
    address; `problems` say what could not be read."""

    project: str
    links: Mapping[str, str]
    models: Sequence[Model] = ()
    history: Sequence[Mapping[str, Any]] = ()
    data: Mapping[str, Any] | None = None
    data_url: str = ""
    problems: Sequence[str] = field(default_factory=list)


def as_html(overview: Overview) -> str:
    """One page without a script. What people and files said is escaped; cards and reports are frames from `card/N` and
    `data/DIGEST` beside it."""
    environment = Environment(autoescape=True, lstrip_blocks=True, trim_blocks=True)
    environment.filters |= {"at": _at, "number": lambda value: f"{value:.3f}"}
    template = (files("tire_pipeline.registry") / "overview.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(o=overview, actions=ACTIONS)


def _at(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"
