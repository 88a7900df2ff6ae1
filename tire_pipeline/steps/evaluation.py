"""The step that measures a candidate on the locked test split."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tire_pipeline.errors import InputError
from tire_pipeline.refs import EvaluationRef, SplitRef, TrainedRef
from tire_pipeline.steps.data import load_split, split_of
from tire_pipeline.steps.live import image_cache, live, stored_bundle

if TYPE_CHECKING:
    import numpy as np

    from tire_pipeline.bundle import Bundle
    from tire_pipeline.datasets.cache import Images
    from tire_pipeline.evaluation.answers import Answers
    from tire_pipeline.wiring import Services

log = logging.getLogger(__name__)
LEARNT_ROWS_MAX = 20_000
MAPS_MAX = 12


def evaluate(
    trained: TrainedRef,
    split_ref: SplitRef,
    *,
    metric: str = "balanced_accuracy",
    threshold: float = 0.75,
    robust: bool = False,
    services: Services | None = None,
) -> EvaluationRef:
    """Measure a bundle on the locked test split and say whether it passes; figures and pictures go to MLflow.

    Every image is answered, so that mistakes can be looked up on each side of the split; of a side that was learnt
    from, the first 20,000. A model card says it for people. `robust`: also under blur, little light, noise,
    compression and a turn, with pictures of where the network looked in its worst mistakes. InputError for a metric
    that the model does not have, such as the recall of one without a positive class.
    """
    from tire_pipeline.metrics import canonical, names
    from tire_pipeline.registry.gate import Gate, reaches
    from tire_pipeline.registry.lifecycle import bundle_prefix

    s, prefix = live(services), bundle_prefix(trained.key)
    with stored_bundle(s, prefix) as bundle, tempfile.TemporaryDirectory(prefix="tire-evaluate-") as tmp:
        metric = canonical(metric, names(has_positive=bundle.positive_class is not None))
        everything, sides = _answer_all(s, bundle, split_ref)
        record = _report(s, trained, bundle, everything, sides, robust=robust, folder=Path(tmp))
        s.tracking.log_folder(trained.run_id, Path(tmp), to="evaluation")
    s.tracking.log_metrics(trained.run_id, _logged(record))
    metrics, num_test = record["metrics"], record["num_images"]
    decision = reaches(metrics[metric], Gate(metric, threshold))
    log.info("%s on %d test images: %s", trained.candidate, num_test, decision.reason)
    return EvaluationRef(trained, metrics, metric, threshold, decision.promote, decision.reason, num_test=num_test)


def _report(
    s: Services,
    trained: TrainedRef,
    bundle: Bundle,
    everything: Answers,
    sides: Mapping[str, int],
    *,
    robust: bool,
    folder: Path,
) -> dict[str, Any]:
    """Write all that an evaluation leaves into the folder; returns its figures (`evaluation.report.measure`)."""
    from tire_pipeline.evaluation import report
    from tire_pipeline.evaluation.pictures import draw_all

    test = everything.where((everything.rows["side"] == "test").to_numpy())
    record = report.measure(bundle, test)
    if robust:
        record["robustness"] = _robustness(bundle, test, folder)
    report.write(record, everything, folder)
    _write_card(s, trained, record, everything, sides, folder)
    draw_all(test, bundle.classes, folder, positive_class=bundle.positive_class)
    return record


def evaluate_run(
    run_id: str,
    *,
    metric: str = "balanced_accuracy",
    threshold: float = 0.75,
    robust: bool = False,
    services: Services | None = None,
) -> EvaluationRef:
    """`evaluate` for a finished training by its MLflow run id. InputError when the run is not a finished training."""
    from tire_pipeline.metrics import canonical, names

    metric = canonical(metric, names(has_positive=True))
    s = live(services)
    trained, tags = trained_in(s, run_id)
    return evaluate(trained, split_of(s, tags), metric=metric, threshold=threshold, robust=robust, services=s)


def trained_in(s: Services, run_id: str) -> tuple[TrainedRef, dict[str, str]]:
    """The finished training of an MLflow run, and the run's tags. InputError when it is none."""
    from tire_pipeline.training.run import result_key

    tags = s.tracking.tags(run_id)
    key = tags.get("tire.cache_key", "")
    if not key or s.objects.head(result_key(key)) is None:
        raise InputError(f"The MLflow run {run_id} is no finished training of this project.")
    return TrainedRef(**{**s.objects.get_json(result_key(key)), "version": tags["tire.version"]}), tags


def answers_on(s: Services, bundle: Bundle, tags: Mapping[str, str], side: str) -> Answers:
    """The bundle's answers on one side of the split that is named by the tags."""
    from tire_pipeline.evaluation.answers import answer

    snapshot, sides = load_split(s, split_of(s, tags))
    return answer(s.objects, bundle, snapshot.usable, sides == side, cache=image_cache(s), name=snapshot.digest)


def images_on(s: Services, bundle: Bundle, tags: Mapping[str, str], side: str) -> tuple[Images, np.ndarray]:
    """All images of the tags' snapshot at the bundle's size, and the positions of those on one side of the split."""
    import numpy as np

    from tire_pipeline.evaluation.answers import images_for

    snapshot, sides = load_split(s, split_of(s, tags))
    images = images_for(s.objects, bundle, snapshot.usable, cache=image_cache(s), name=snapshot.digest)
    return images, np.flatnonzero(sides == side)


def _robustness(bundle: Bundle, test: Answers, folder: Path) -> dict[str, dict[str, float]]:
    """Apart from the rest, since torch takes seconds to load and nothing else here needs it."""
    from tire_pipeline.evaluation.robustness import robustness
    from tire_pipeline.training.trained import has_network, trained_network

    if has_network(bundle):
        draw_maps(bundle, trained_network(bundle), test, folder)
    return robustness(bundle, test)


def draw_maps(bundle: Bundle, network: Any, test: Answers, folder: Path) -> None:
    """Write `worst_mistakes_maps.png`: where the network, in torch, looked in its worst mistakes."""
    from tire_pipeline.evaluation.attribution import maps
    from tire_pipeline.evaluation.pictures import mistakes_with_maps, worst

    shown = maps(network, bundle, test, worst(test.scored)[:MAPS_MAX])
    mistakes_with_maps(test, bundle.classes, shown).savefig(folder / "worst_mistakes_maps.png")


def _answer_all(s: Services, bundle: Bundle, split_ref: SplitRef) -> tuple[Answers, dict[str, int]]:
    """The answers on the test side whole, and on the others up to their limit; `side` is a column of the rows. And how
    many images each side has."""
    import pandas as pd

    from tire_pipeline.evaluation.answers import answer

    snapshot, sides = load_split(s, split_ref)
    usable = snapshot.usable.assign(side=sides)
    place = pd.Series(sides).groupby(sides).cumcount().to_numpy()
    wanted = (sides == "test") | ((place < LEARNT_ROWS_MAX) & (sides != ""))
    answers = answer(s.objects, bundle, usable, wanted, cache=image_cache(s), name=snapshot.digest)
    return answers, {side: int((sides == side).sum()) for side in ("train", "val", "test")}


def _write_card(
    s: Services,
    trained: TrainedRef,
    record: dict[str, Any],
    everything: Answers,
    sides: Mapping[str, int],
    folder: Path,
) -> None:
    from tire_pipeline.evaluation import card

    made = card.Card(
        project=s.settings.project,
        candidate=trained.candidate,
        classes=tuple(record["classes"]),
        sides=sides,
        answered={str(side): int(n) for side, n in everything.rows["side"].value_counts().items()},
        lineage={
            "dataset version": trained.version,
            "snapshot": trained.snapshot_digest,
            "split": trained.split_digest,
            "training": trained.key,
            "bundle": trained.bundle_digest,
            "MLflow run": trained.run_id,
        },
    )
    (folder / "model_card.md").write_text(card.as_markdown(made, record), encoding="utf-8")
    (folder / "model_card.html").write_text(card.as_html(made, record), encoding="utf-8")


def _logged(record: dict[str, Any]) -> dict[str, float]:
    """The figures as MLflow's metrics."""
    logged = {f"test/{name}": value for name, value in record["metrics"].items()}
    for condition, values in record.get("robustness", {}).items():
        logged |= {f"robustness/{condition}/{name}": value for name, value in values.items()}
    return {**logged, "test/ms_per_image": record["ms_per_image"]}
