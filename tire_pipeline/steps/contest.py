"""What the gate is told: the candidate's figures, and how the champion does on the same test images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tire_pipeline.errors import InputError
from tire_pipeline.refs import ModelRef
from tire_pipeline.steps.data import load_split, split_of
from tire_pipeline.steps.learnt import learnt_by
from tire_pipeline.steps.live import image_cache, registered_bundle

if TYPE_CHECKING:
    from tire_pipeline.bundle import Bundle
    from tire_pipeline.evaluation.answers import Answers
    from tire_pipeline.registry.gate import Candidate, Champion, Gate
    from tire_pipeline.stores.tracking import RegisteredVersion
    from tire_pipeline.wiring import Services


def contest(
    s: Services, model: ModelRef, champion: RegisteredVersion | None, gate: Gate
) -> tuple[Candidate, Champion | None]:
    """Both scored on the test side of the candidate's own split. The champion is None where there is none, and where
    it is the candidate itself.

    InputError for a metric that the candidate does not have.
    """
    from tire_pipeline.evaluation.answers import answer

    tags = tags_of(s, model)
    snapshot, sides = load_split(s, split_of(s, tags))

    def on_test(bundle: Bundle) -> Answers:
        rows, cache = snapshot.usable, image_cache(s)
        return answer(s.objects, bundle, rows, sides == "test", cache=cache, name=snapshot.digest)

    with registered_bundle(s, tags) as bundle:
        mine = on_test(bundle)
        candidate = candidate_of(s, bundle, mine, gate.metric)
        if champion is None or champion.version == model.version:
            return candidate, None
        classes = set(snapshot.usable["label"])
        return candidate, _champion(s, champion, bundle, mine, on_test, classes, gate.alpha)


def tags_of(s: Services, model: ModelRef) -> dict[str, str]:
    """What the version was registered with. InputError when it is gone."""
    found = next((v for v in s.tracking.versions() if v.version == model.version), None)
    if found is None:
        raise InputError(f"{model.name} has no version {model.version}; it was deleted in MLflow.")
    return found.tags


def candidate_of(s: Services, bundle: Bundle, answers: Answers, metric: str) -> Candidate:
    """What the gate is told of the bundle's answers. InputError for a metric that they do not have."""
    import numpy as np

    from tire_pipeline.evaluation.by_label import judged, metrics_of
    from tire_pipeline.evaluation.slices import slices
    from tire_pipeline.metrics import canonical, names
    from tire_pipeline.registry.gate import Candidate, Slice

    scored, groups = answers.scored, answers.groups
    canonical(metric, names(has_positive=bool(scored.positives)))
    labels = judged(scored, bundle.classes, positive_class=bundle.positive_class)
    return Candidate(
        metrics=metrics_of(scored, groups, labels),
        num_images=len(answers.rows),
        num_groups=len(np.unique(groups)),
        num_positive={name: int(label.truth.sum()) for name, label in labels.items() if label.positives},
        slices=tuple(Slice(c.name, c.num_images, c.accuracy) for c in slices(answers)),
        labels=tuple(name for name in labels if name),
    )


def _champion(
    s: Services,
    champion: RegisteredVersion,
    mine: Bundle,
    answers: Answers,
    on_test: Callable[[Bundle], Answers],
    classes: set[str],
    alpha: float,
) -> Champion:
    """The champion's record for the gate, compared with the `answers` of the candidate `mine`; without a comparison
    where it does not know all of the classes."""
    from tire_pipeline.evaluation.by_label import judged
    from tire_pipeline.registry.comparison import compare
    from tire_pipeline.registry.gate import Champion

    num_learnt = int(learnt_by(s, champion.tags, answers.rows).sum())
    with registered_bundle(s, champion.tags) as bundle:
        if unknown := sorted(classes - set(bundle.classes)):
            return Champion(champion.version, unknown_classes=tuple(unknown), num_learnt=num_learnt)
        theirs = on_test(bundle)
        challenged = judged(theirs.scored, bundle.classes, positive_class=mine.positive_class)
    challenging = judged(answers.scored, mine.classes, positive_class=mine.positive_class)
    comparison = compare(challenging, challenged, answers.groups, alpha=alpha)
    return Champion(champion.version, comparison, num_learnt=num_learnt)
