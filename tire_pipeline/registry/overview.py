"""The page on a project at a glance: what is in production and in staging, what happened, what the data is like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment

FIGURES = ("balanced_accuracy", "recall", "precision", "auroc", "ece", "log_loss", "cost")
ACTIONS = {
    "registered": "registered",
    "staged": "put into staging",
    "produced": "put into production",
    "refused": "refused",
    "rolled_back": "rolled back",
}


@dataclass(frozen=True)
class Model:
    """A version behind an alias. `metrics` are its run's; `moved` is the row of the history that put it there."""

    alias: str
    version: int
    candidate: str
    dataset_version: str
    run_url: str
    metrics: Mapping[str, float]
    moved: Mapping[str, Any] | None = None

    @property
    def figures(self) -> list[tuple[str, float, float | None, float | None]]:
        """(name, value, low, high) on the test split."""
        have = [(f"test/{name}", name) for name in FIGURES if f"test/{name}" in self.metrics]
        return [
            (name.replace("_", " "), self.metrics[key], self.metrics.get(f"{key}_low"), self.metrics.get(f"{key}_high"))
            for key, name in have
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
