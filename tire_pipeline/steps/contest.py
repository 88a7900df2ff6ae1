"""What the gate is told: the candidate's figures, and how the champion does on the same test images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tire_pipeline.errors import InputError
from tire_pipeline.refs import ModelRef
from tire_pipeline.steps.data import load_split, split_of
from tire_pipeline.steps.learnt import learnt_by
from tire_pipeline.steps.live import image_cache, stored_bundle

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

    with stored_bundle(s, tags["tire.bundle"]) as bundle:
        mine = on_test(bundle)
    candidate = candidate_of(mine, gate.metric)
    if champion is None or champion.version == model.version:
        return candidate, None
    return candidate, _champion(s, champion, mine, on_test, set(snapshot.usable["label"]), gate.alpha)


def tags_of(s: Services, model: ModelRef) -> dict[str, str]:
    """What the version was registered with. InputError when it is gone."""
    found = next((v for v in s.tracking.versions() if v.version == model.version), None)
    if found is None:
        raise InputError(f"{model.name} has no version {model.version}; it was deleted in MLflow.")
    return found.tags


def candidate_of(answers: Answers, metric: str) -> Candidate:
    """What the gate is told of these answers. InputError for a metric that they do not have."""
    from tire_pipeline.evaluation.slices import slices
    from tire_pipeline.metrics import canonical, names, with_intervals
    from tire_pipeline.registry.gate import Candidate, Slice

    s = answers.scored
    canonical(metric, names(has_positive=s.positive is not None))
    found = tuple(Slice(c.name, c.num_images, c.accuracy) for c in slices(answers))
    positives = None if s.positive is None else int((s.y_N == s.positive).sum())
    return Candidate(with_intervals(s, answers.groups), len(answers.rows), positives, found)


def _champion(
    s: Services,
    champion: RegisteredVersion,
    mine: Answers,
    on_test: Callable[[Bundle], Answers],
    classes: set[str],
    alpha: float,
) -> Champion:
    """The champion's record for the gate; without a comparison where it does not know all of the classes."""
    from tire_pipeline.registry.comparison import compare
    from tire_pipeline.registry.gate import Champion

    num_learnt = int(learnt_by(s, champion.tags, mine.rows).sum())
    with stored_bundle(s, champion.tags["tire.bundle"]) as bundle:
        if unknown := sorted(classes - set(bundle.classes)):
            return Champion(champion.version, unknown_classes=tuple(unknown), num_learnt=num_learnt)
        theirs = on_test(bundle)
    comparison = compare(mine.scored, theirs.scored, mine.groups, alpha=alpha)
    return Champion(champion.version, comparison, num_learnt=num_learnt)
