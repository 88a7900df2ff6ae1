"""The step that measures a candidate by cross-validation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tire_pipeline.refs import CrossValidationRef, SnapshotRef
from tire_pipeline.several_labels import membership, positives
from tire_pipeline.steps import pretrained
from tire_pipeline.steps.candidates import positive_class_of
from tire_pipeline.steps.data import Progress
from tire_pipeline.steps.live import image_cache, live
from tire_pipeline.steps.request import RunRequest, training_config

if TYPE_CHECKING:
    from tire_pipeline.wiring import Services


def cross_validate(
    snapshot_ref: SnapshotRef,
    request: RunRequest,
    *,
    kind: str,
    k: int = 5,
    progress: Progress | None = None,
    services: Services | None = None,
) -> CrossValidationRef:
    """Figures of the request's one candidate over all usable images, each answered by a model that saw nothing that
    belongs to it; in an MLflow run of its own, with every answer. `kind` is `kfold` (k folds) or `logo`, which leaves
    out one group at a time. No model is kept. InputError where there are too few groups.
    """
    import numpy as np

    from tire_pipeline import splits
    from tire_pipeline.datasets import snapshots
    from tire_pipeline.datasets.cache import open_images
    from tire_pipeline.evaluation.by_label import judged, metrics_of
    from tire_pipeline.metrics import Scored, canonical, names
    from tire_pipeline.registry.gate import Gate, reaches
    from tire_pipeline.training.cross_validation import cross_validate as fit_and_answer

    s = live(services)
    (candidate,) = request.candidates
    classes, positive = snapshot_ref.classes, positive_class_of(s, snapshot_ref.classes)
    canonical(request.metric, names(has_positive=positive is not None))  # before an hour of training
    config = pretrained.resolved(s, training_config(request, candidate))
    snapshot = snapshots.load(s.objects, snapshot_ref.digest)
    usable, links = snapshot.usable, splits.link(snapshot.usable, splits.likeness_of(s.objects, snapshot))
    folds = splits.folds(usable, kind=kind, k=k, seed=request.seed, links=links)
    images = open_images(
        s.objects,
        usable,
        height=config.image_height,
        width=config.image_width,
        how=config.resize,
        cache=image_cache(s),
        name=snapshot_ref.digest,
    )
    y_N = usable["label"].map({c: i for i, c in enumerate(classes)}).to_numpy(np.int64)

    def on_fold(done: int) -> None:
        if progress:
            progress(done, len(folds))

    combined, weights = membership(classes), pretrained.fetched(s, config)
    p_NK = fit_and_answer(images, y_N, folds, config, membership_KV=combined, weights=weights, on_fold=on_fold)
    predicted_N = p_NK.argmax(axis=1)
    scored = Scored(y_N, p_NK, predicted_N, positives(classes, positive))
    groups = splits.joined_groups(usable, links)
    metrics = metrics_of(scored, groups, judged(scored, classes, positive_class=positive))
    rows = [
        {"fold": f.name, "num_images": len(f.test), "accuracy": float(np.mean(predicted_N[f.test] == y_N[f.test]))}
        for f in folds
    ]
    tags = {"tire.snapshot": snapshot_ref.digest, "tire.version": snapshot_ref.version, "tire.cv": kind}
    run_id = s.tracking.start_run(f"{kind} {candidate}", params=config.as_dict(), tags=tags)
    s.tracking.log_metrics(run_id, {f"cv/{name}": value for name, value in metrics.items()})
    answers = usable[["path", "label", "group"]].assign(predicted=np.array(classes)[predicted_N])
    answers = answers.assign(**{f"p_{c}": p_NK[:, i] for i, c in enumerate(classes)})
    for fold in folds:
        answers.loc[answers.index[fold.test], "fold"] = fold.name
    with tempfile.TemporaryDirectory(prefix="tire-cv-") as tmp:
        answers.to_csv(Path(tmp) / "answers.csv", index=False)
        s.tracking.log_folder(run_id, Path(tmp), to="evaluation")
    s.tracking.end_run(run_id)
    decision = reaches(metrics[request.metric], Gate(request.metric, request.threshold))
    return CrossValidationRef(
        snapshot_ref.version, candidate, kind, run_id, metrics, rows, decision.promote, decision.reason
    )
