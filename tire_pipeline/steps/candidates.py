"""Steps on candidates: train and evaluate."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tire_pipeline.errors import InputError
from tire_pipeline.refs import EvaluationRef, SplitRef, TrainedRef
from tire_pipeline.steps import pretrained
from tire_pipeline.steps.data import Progress, load_split, split_of
from tire_pipeline.steps.data_report import report_url
from tire_pipeline.steps.live import image_cache, live, stored_bundle
from tire_pipeline.steps.request import RunRequest, training_config

if TYPE_CHECKING:
    from tire_pipeline.evaluation.answers import Answers
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


def evaluate(
    trained: TrainedRef,
    split_ref: SplitRef,
    *,
    metric: str = "balanced_accuracy",
    threshold: float = 0.75,
    services: Services | None = None,
) -> EvaluationRef:
    """Measure a bundle on the locked test split and say whether it passes; figures and pictures go to MLflow.

    InputError for a metric that the model does not have, such as the recall of one without a positive class.
    """
    from tire_pipeline.evaluation.by_label import metrics_of
    from tire_pipeline.evaluation.pictures import draw_all
    from tire_pipeline.metrics import canonical, names
    from tire_pipeline.registry.gate import Gate, reaches

    s = live(services)
    answers = answers_on_test(s, trained.key, split_ref)
    metric = canonical(metric, names(has_positive=answers.scored.positive is not None))
    classes, positive_class = split_ref.snapshot.classes, s.settings.positive_class
    metrics = metrics_of(answers.scored, answers.groups, classes, positive_class=positive_class)
    s.tracking.log_metrics(trained.run_id, {f"test/{k}": v for k, v in metrics.items()})
    with tempfile.TemporaryDirectory(prefix="tire-evaluate-") as tmp:
        draw_all(answers, classes, Path(tmp))
        answers.rows.drop(columns=["error", "etag"]).to_parquet(Path(tmp) / "predictions.parquet", index=False)
        s.tracking.log_folder(trained.run_id, Path(tmp), to="evaluation")
    decision = reaches(metrics[metric], Gate(metric, threshold))
    log.info("%s on %d test images: %s", trained.candidate, len(answers.rows), decision.reason)
    return EvaluationRef(
        trained, metrics, metric, threshold, decision.promote, decision.reason, num_test=len(answers.rows)
    )


def answers_on_test(s: Services, key: str, split_ref: SplitRef) -> Answers:
    """The answers of the bundle of training `key` on the test side of the split."""
    from tire_pipeline.evaluation.answers import answer
    from tire_pipeline.registry.lifecycle import bundle_prefix

    snapshot, sides = load_split(s, split_ref)
    with stored_bundle(s, bundle_prefix(key)) as bundle:
        return answer(s.objects, bundle, snapshot.usable, sides == "test", cache=image_cache(s), name=snapshot.digest)


def _description(s: Services, version: str) -> str:
    """What MLflow shows on the run's page, in Markdown."""
    url = report_url(s, version)
    return f"Trained on dataset version `{version}`" + (f": [report on the data]({url})." if url else ".")


def positive_class_of(s: Services, classes: list[str]) -> str | None:
    """The configured positive class, or None for a project without one among its classes."""
    return s.settings.positive_class if s.settings.positive_class in classes else None


def _draw_curves(history: list[dict[str, float]], best_epoch: int, folder: Path) -> None:
    from tire_pipeline.evaluation.pictures import learning_curves

    learning_curves(history, best_epoch).savefig(folder / "learning_curves.png")


def evaluate_run(
    run_id: str, *, metric: str = "balanced_accuracy", threshold: float = 0.75, services: Services | None = None
) -> EvaluationRef:
    """`evaluate` for a finished training by its MLflow run id. InputError when the run is not a finished training."""
    from tire_pipeline.metrics import canonical, names

    metric = canonical(metric, names(has_positive=True))
    from tire_pipeline.training.run import result_key

    s = live(services)
    tags = s.tracking.tags(run_id)
    key = tags.get("tire.cache_key", "")
    if not key or s.objects.head(result_key(key)) is None:
        raise InputError(f"The MLflow run {run_id} is no finished training of this project.")
    trained = TrainedRef(**{**s.objects.get_json(result_key(key)), "version": tags["tire.version"]})
    return evaluate(trained, split_of(s, tags), metric=metric, threshold=threshold, services=s)


def _read_spec(spec: Mapping[str, Any]) -> tuple[TrainingConfig, SplitRef]:
    """A spec's configuration and split. InputError for what is no spec, or a configuration that cannot be used."""
    from tire_pipeline.training.config import TrainingConfig

    try:
        return TrainingConfig(**spec["config"]), SplitRef.from_dict(spec["split"])
    except (KeyError, TypeError) as error:
        raise InputError(f"This is no training spec ({error}). `steps.training_specs` makes them.") from None
