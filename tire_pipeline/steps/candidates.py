"""The step that trains a candidate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tire_pipeline.errors import InputError
from tire_pipeline.refs import SplitRef, TrainedRef
from tire_pipeline.several_labels import positives
from tire_pipeline.steps import pretrained
from tire_pipeline.steps.data import Progress, load_split
from tire_pipeline.steps.data_report import report_url
from tire_pipeline.steps.live import image_cache, live
from tire_pipeline.steps.request import RunRequest, training_config

if TYPE_CHECKING:
    from tire_pipeline.training.config import TrainingConfig
    from tire_pipeline.wiring import Services

log = logging.getLogger(__name__)


def training_specs(split_ref: SplitRef, request: RunRequest) -> list[dict[str, Any]]:
    """One JSON record for each candidate: all that a trainer, in whatever container, needs to know."""
    return [
        {"candidate": c, "split": asdict(split_ref), "config": training_config(request, c).as_dict()}
        for c in request.candidates
    ]


def train(
    spec: Mapping[str, Any],
    *,
    resume: bool = False,
    tags: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda *_: None,
    services: Services | None = None,
) -> TrainedRef:
    """Train one candidate by its spec (see `training_specs`), or take it from the cache.

    With `resume` it goes on from the newest checkpoint of an earlier try, here or in S3; where there is none it starts.
    `on_epoch` is told every epoch's metrics, and may end the training by raising something.
    """
    config, split_ref = _read_spec(spec)
    s = live(services)
    from tire_pipeline.training import run

    config = pretrained.resolved(s, config)
    positive_class = positive_class_of(s, split_ref.snapshot.classes)
    if (cached := run.find_cached(s.objects, split_ref, config, positive_class=positive_class)) is not None:
        return cached
    snapshot, sides = load_split(s, split_ref)
    job = run.Job(
        split=split_ref,
        snapshot=snapshot,
        sides=sides,
        config=config,
        positive_class=positive_class,
        cache=image_cache(s),
        weights=pretrained.fetched(s, config),
        checkpoints=s.settings.home / "checkpoints",
        resume=resume,
        tags={"mlflow.note.content": _description(s, split_ref.snapshot.version), **(tags or {})},
    )

    def each_epoch(epoch: int, metrics: dict[str, float]) -> None:
        if progress:
            progress(epoch + 1, config.epochs)
        on_epoch(epoch, metrics)

    return run.run(job, s.objects, s.tracking, draw_curves=_draw_curves, on_epoch=each_epoch)


def _description(s: Services, version: str) -> str:
    """What MLflow shows on the run's page, in Markdown."""
    url = report_url(version, services=s)
    return f"Trained on dataset version `{version}`" + (f": [report on the data]({url})." if url else ".")


def positive_class_of(s: Services, classes: list[str]) -> str | None:
    """The configured positive class, or None for a project without one among its classes or its labels' values."""
    return s.settings.positive_class if positives(classes, s.settings.positive_class) else None


def _draw_curves(history: list[dict[str, float]], best_epoch: int, folder: Path) -> None:
    from tire_pipeline.evaluation.pictures import learning_curves

    learning_curves(history, best_epoch).savefig(folder / "learning_curves.png")


def _read_spec(spec: Mapping[str, Any]) -> tuple[TrainingConfig, SplitRef]:
    """A spec's configuration and split. InputError for what is no spec, or a configuration that cannot be used."""
    from tire_pipeline.training.config import TrainingConfig

    try:
        return TrainingConfig(**spec["config"]), SplitRef.from_dict(spec["split"])
    except (KeyError, TypeError) as error:
        raise InputError(f"This is no training spec ({error}). `steps.training_specs` makes them.") from None
