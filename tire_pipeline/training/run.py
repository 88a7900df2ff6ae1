"""One training from its reference to its bundle in S3 and its run in MLflow, or from the cache."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tire_pipeline.bundle import Bundle
from tire_pipeline.datasets.cache import ImageCache, open_images
from tire_pipeline.datasets.snapshots import Snapshot
from tire_pipeline.errors import Interrupted
from tire_pipeline.refs import SplitRef, TrainedRef
from tire_pipeline.several_labels import membership
from tire_pipeline.stores.objects import ObjectStore
from tire_pipeline.stores.tracking import Tracking
from tire_pipeline.training.cache_key import cache_key, code_digest, nearest, parts
from tire_pipeline.training.checkpoints import Checkpoints
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.export import export
from tire_pipeline.training.interruption import GivenUp
from tire_pipeline.training.loop import Examples, Fitted, OnEpoch, fit
from tire_pipeline.training.mirror import S3Mirror
from tire_pipeline.training.processes import is_follower
from tire_pipeline.training.record import tracked_run, write_bundle, write_config
from tire_pipeline.training.sheet import write_sheet
from tire_pipeline.training.state import EpochMetrics, kept_metrics

log = logging.getLogger(__name__)
LOOKED_BACK = 20
DrawCurves = Callable[[list[EpochMetrics], int, Path], None]


@dataclass(frozen=True)
class Job:
    """All that one training needs. `sides` are "train", "val" or "test", one for each usable row of the snapshot.

    Checkpoints lie in the folder `checkpoints`, below the training's key; without `resume` earlier ones are deleted.
    """

    split: SplitRef
    snapshot: Snapshot
    sides: np.ndarray
    config: TrainingConfig
    positive_class: str | None
    cache: ImageCache
    tags: Mapping[str, str]
    checkpoints: Path
    resume: bool = False
    weights: Path | None = None


def find_cached(
    objects: ObjectStore, split: SplitRef, config: TrainingConfig, *, positive_class: str | None
) -> TrainedRef | None:
    """The finished training of this key, or None."""
    key = cache_key(split, config, positive_class)
    if objects.head(result_key(key)) is None:
        return None
    log.info("candidate %s: served from the cache, key %s", config.model_type, key)
    return TrainedRef(**{**objects.get_json(result_key(key)), "cached": True, "version": split.snapshot.version})


def explain_miss(job: Job, objects: ObjectStore, tracking: Tracking) -> str:
    """Why this training is not in the cache: what sets it apart from the nearest of the candidate's newest ones."""
    runs = tracking.newest_runs(param="model_type", value=job.config.model_type, limit=LOOKED_BACK)
    keys = dict.fromkeys(tags.get("tire.cache_key", "") for tags in runs)
    earlier = [objects.get_json(parts_key(key)) for key in keys if key and objects.head(parts_key(key)) is not None]
    if not earlier:
        return "no earlier training of this candidate"
    return "; ".join(nearest(parts(job.split, job.config, job.positive_class), earlier)) or "an earlier one never ended"


def result_key(key: str) -> str:
    return f"runs/{key}/result.json"


def parts_key(key: str) -> str:
    """Where the parts of the key are kept, for whoever asks why it is another one."""
    return f"runs/{key}/key.json"


def run(
    job: Job,
    objects: ObjectStore,
    tracking: Tracking,
    *,
    draw_curves: DrawCurves,
    on_epoch: OnEpoch = lambda *_: None,
) -> TrainedRef:
    """Train, export, store. result.json is written last: with it, everything else is there. Safe to repeat.

    A process that torchrun started to help another one trains with it, and leaves the rest to it.
    """
    key, start, config = cache_key(job.split, job.config, job.positive_class), time.monotonic(), job.config
    if is_follower():
        return _follow(job, objects, key)
    tags = {**_tags(job, key), "tire.cache_miss": explain_miss(job, objects, tracking)}
    log.info("candidate %s: not in the cache: %s", config.model_type, tags["tire.cache_miss"])
    with tracked_run(tracking, config, tags) as run_id, tempfile.TemporaryDirectory(prefix="tire-train-") as tmp:
        artifacts = Path(tmp) / "artifacts"
        artifacts.mkdir()
        with _checkpoints(job, objects, key) as checkpoints:
            told = _teller(tracking, run_id, config, on_epoch)
            bundle, fitted = _fit_and_export(job, objects, Path(tmp) / "bundle", told, checkpoints)
        objects.upload_folder(bundle.path, f"runs/{key}/bundle/")
        draw_curves(fitted.history, fitted.best_epoch, artifacts)
        write_config(config, job.split.snapshot.version, artifacts)
        write_bundle(bundle, artifacts)
        tracking.log_folder(run_id, artifacts)
        tracking.log_metrics(run_id, kept_metrics(fitted.history[fitted.best_epoch]))
        tracking.set_tags(run_id, {"tire.bundle_digest": bundle.digest})
    trained = _trained(job, key, run_id=run_id, bundle_digest=bundle.digest, seconds=time.monotonic() - start)
    objects.put_json(parts_key(key), parts(job.split, config, job.positive_class))
    objects.put_json(result_key(key), asdict(trained))
    checkpoints.clear()
    return trained


def _teller(tracking: Tracking, run_id: str, config: TrainingConfig, on_epoch: OnEpoch) -> OnEpoch:
    """What every epoch's metrics are told to: the log, MLflow, and `on_epoch`."""

    def tell(epoch: int, metrics: EpochMetrics) -> None:
        shown = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        log.info("%s: epoch %d of %d: %s", config.model_type, epoch + 1, config.epochs, shown)
        tracking.log_metrics(run_id, metrics, step=epoch, at_ms=int(time.time() * 1000))
        on_epoch(epoch, metrics)

    return tell


def _trained(job: Job, key: str, *, run_id: str = "", bundle_digest: str = "", seconds: float = 0.0) -> TrainedRef:
    return TrainedRef(
        candidate=job.config.model_type,
        key=key,
        run_id=run_id,
        bundle_digest=bundle_digest,
        snapshot_digest=job.snapshot.digest,
        split_digest=job.split.digest,
        version=job.split.snapshot.version,
        seconds=round(seconds, 1),
    )


def _follow(job: Job, objects: ObjectStore, key: str) -> TrainedRef:
    """Take part in a training that another process stores: what this one knows of it has no bundle and no run."""
    with _checkpoints(job, objects, key) as checkpoints:
        examples = _examples(job, objects)
        fit(examples, job.config, weights=job.weights, on_epoch=lambda *_: None, checkpoints=checkpoints)
    return _trained(job, key)


def _tags(job: Job, key: str) -> dict[str, str]:
    return {
        "tire.cache_key": key,
        "tire.snapshot": job.snapshot.digest,
        "tire.split": job.split.digest,
        "tire.version": job.split.snapshot.version,
        "tire.code": code_digest(),
        **job.tags,
    }


@contextmanager
def _checkpoints(job: Job, objects: ObjectStore, key: str) -> Iterator[Checkpoints]:
    """The training's checkpoints, here and in S3: none, unless it is to go on."""
    mirror = S3Mirror(objects, f"runs/{key}/checkpoints/")
    checkpoints = Checkpoints(job.checkpoints / key, mirror=mirror)
    if not job.resume and not is_follower():
        checkpoints.clear()
        mirror.clear()
    try:
        yield checkpoints
    except GivenUp:
        checkpoints.clear()
        mirror.clear()
        raise
    except Interrupted:
        raise  # at once: the last checkpoint has had its time to be copied
    except BaseException:
        mirror.close()
        raise
    mirror.close()


def _fit_and_export(
    job: Job, objects: ObjectStore, folder: Path, on_epoch: OnEpoch, checkpoints: Checkpoints
) -> tuple[Bundle, Fitted]:
    config, examples = job.config, _examples(job, objects)
    write_sheet(examples.images_NHWC, examples.train, config, folder.with_name("artifacts"))
    fitted = fit(examples, config, weights=job.weights, on_epoch=on_epoch, checkpoints=checkpoints)
    folder.mkdir(parents=True)
    bundle = export(
        fitted.model,
        examples.images_NHWC,
        examples.labels_N,
        examples.val,
        train=examples.train,
        classes=job.split.snapshot.classes,
        positive_class=job.positive_class,
        config=config,
        snapshot_digest=job.snapshot.digest,
        folder=folder,
    )
    return bundle, fitted


def _examples(job: Job, objects: ObjectStore) -> Examples:
    """The snapshot's images, decoded into this host's cache, on the sides that the split gives them."""
    usable, classes = job.snapshot.usable, job.split.snapshot.classes
    images_NHWC = open_images(
        objects,
        usable,
        height=job.config.image_height,
        width=job.config.image_width,
        how=job.config.resize,
        cache=job.cache,
        name=job.snapshot.digest,
    )
    labels_N = usable["label"].map({c: k for k, c in enumerate(classes)}).to_numpy(np.int64)
    train, val = (np.flatnonzero(job.sides == side) for side in ("train", "val"))
    paths, combined = usable["path"].tolist(), membership(classes)
    return Examples(images_NHWC, labels_N, train, val, len(classes), paths=paths, membership_KV=combined)
