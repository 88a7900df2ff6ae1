"""One training from its reference to its bundle in S3 and its run in MLflow, or from the cache."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import mlflow.onnx
import numpy as np
import onnx

from tire_pipeline.bundle import MODEL, Bundle
from tire_pipeline.datasets.cache import ImageCache, open_images
from tire_pipeline.datasets.snapshots import Snapshot
from tire_pipeline.refs import SplitRef, TrainedRef
from tire_pipeline.stores.objects import ObjectStore
from tire_pipeline.stores.tracking import Tracking
from tire_pipeline.training.cache_key import cache_key, code_digest
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.export import export
from tire_pipeline.training.loop import EpochMetrics, Examples, Fitted, fit

log = logging.getLogger(__name__)
DrawCurves = Callable[[list[EpochMetrics], int, Path], None]


@dataclass(frozen=True)
class Job:
    """All that one training needs. `sides` are "train", "val" or "test", one for each usable row of the snapshot."""

    split: SplitRef
    snapshot: Snapshot
    sides: np.ndarray
    config: TrainingConfig
    positive_class: str | None
    cache: ImageCache
    tags: Mapping[str, str]


def find_cached(
    objects: ObjectStore, split: SplitRef, config: TrainingConfig, *, positive_class: str | None
) -> TrainedRef | None:
    """The finished training of this key, or None."""
    key = cache_key(split, config, positive_class)
    if objects.head(result_key(key)) is None:
        return None
    log.info("candidate %s: served from the cache, key %s", config.model_type, key)
    return TrainedRef(**{**objects.get_json(result_key(key)), "cached": True, "version": split.snapshot.version})


def result_key(key: str) -> str:
    return f"runs/{key}/result.json"


def run(
    job: Job,
    objects: ObjectStore,
    tracking: Tracking,
    *,
    draw_curves: DrawCurves,
    on_epoch: Callable[[int, EpochMetrics], None] = lambda *_: None,
) -> TrainedRef:
    """Train, export, store. result.json is written last: with it, everything else is there. Safe to repeat."""
    key = cache_key(job.split, job.config, job.positive_class)
    start = time.monotonic()
    with _tracked_run(tracking, job, key) as run_id, tempfile.TemporaryDirectory(prefix="tire-train-") as tmp:

        def each_epoch(epoch: int, metrics: EpochMetrics) -> None:
            shown = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items())
            log.info("%s: epoch %d of %d: %s", job.config.model_type, epoch + 1, job.config.epochs, shown)
            tracking.log_metrics(run_id, metrics, step=epoch, at_ms=int(time.time() * 1000))
            on_epoch(epoch, metrics)

        bundle, fitted = _fit_and_export(job, objects, Path(tmp) / "bundle", each_epoch)
        objects.upload_folder(bundle.path, f"runs/{key}/bundle/")
        _log_artifacts(tracking, run_id, bundle, Path(tmp) / "artifacts")
        draw_curves(fitted.history, fitted.best_epoch, Path(tmp) / "artifacts")
        tracking.log_folder(run_id, Path(tmp) / "artifacts")
        trained = TrainedRef(
            candidate=job.config.model_type,
            key=key,
            run_id=run_id,
            bundle_digest=bundle.digest,
            snapshot_digest=job.snapshot.digest,
            split_digest=job.split.digest,
            version=job.split.snapshot.version,
            seconds=round(time.monotonic() - start, 1),
        )
    objects.put_json(result_key(key), asdict(trained))
    return trained


def _fit_and_export(
    job: Job, objects: ObjectStore, folder: Path, on_epoch: Callable[[int, EpochMetrics], None]
) -> tuple[Bundle, Fitted]:
    usable, config = job.snapshot.usable, job.config
    classes = job.split.snapshot.classes
    images = open_images(
        objects,
        usable,
        height=config.image_height,
        width=config.image_width,
        cache=job.cache,
        name=job.snapshot.digest,
    )
    labels_N = usable["label"].map({c: k for k, c in enumerate(classes)}).to_numpy(np.int64)
    train, val = (np.flatnonzero(job.sides == side) for side in ("train", "val"))
    fitted = fit(Examples(images, labels_N, train, val, len(classes)), config, on_epoch=on_epoch)
    folder.mkdir(parents=True)
    bundle = export(
        fitted.model,
        images,
        labels_N,
        val,
        train=train,
        classes=classes,
        positive_class=job.positive_class,
        config=config,
        snapshot_digest=job.snapshot.digest,
        folder=folder,
    )
    return bundle, fitted


def _log_artifacts(tracking: Tracking, run_id: str, bundle: Bundle, folder: Path) -> None:
    """The bundle, and its model in MLflow's onnx flavour, which needs no pickle to be loaded."""
    folder.mkdir()
    shutil.copytree(bundle.path, folder / "bundle", ignore=shutil.ignore_patterns(MODEL))
    model = onnx.load(str(bundle.path / MODEL))
    mlflow.onnx.save_model(
        model, str(folder / "model"), pip_requirements=["onnxruntime"], metadata={"bundle_digest": bundle.digest}
    )
    tracking.set_tags(run_id, {"tire.bundle_digest": bundle.digest})


@contextmanager
def _tracked_run(tracking: Tracking, job: Job, key: str) -> Iterator[str]:
    """An open MLflow run that ends as FINISHED, or as FAILED when anything is raised."""
    tags = {
        "tire.cache_key": key,
        "tire.snapshot": job.snapshot.digest,
        "tire.split": job.split.digest,
        "tire.version": job.split.snapshot.version,
        "tire.code": code_digest(),
        **job.tags,
    }
    run_id = tracking.start_run(job.config.model_type, params=job.config.as_dict(), tags=tags)
    try:
        yield run_id
    except BaseException:
        tracking.end_run(run_id, status="FAILED")
        raise
    tracking.end_run(run_id)
