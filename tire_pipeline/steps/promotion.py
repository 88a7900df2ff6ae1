"""Steps of promotion: register, stage, produce, go back, and say what was decided."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from tire_pipeline.errors import GateRefused, InputError, TireError
from tire_pipeline.refs import EvaluationRef, ModelRef, PromotionRef, TrainedRef
from tire_pipeline.steps.contest import contest
from tire_pipeline.steps.data_report import report_url
from tire_pipeline.steps.live import live, stored_bundle

if TYPE_CHECKING:
    from tire_pipeline.registry.lifecycle import Registry
    from tire_pipeline.wiring import Services

log = logging.getLogger(__name__)


def register(
    evaluations: Sequence[EvaluationRef], *, run_key: str, actor: str = "pipeline", services: Services | None = None
) -> list[ModelRef]:
    """Register every candidate that passed, once its bundle was read back from S3 and found to be what was measured.

    GateRefused, with each one's figure, when none passed; InputError for a bundle that is damaged or another one.
    """
    passed = [e for e in evaluations if e.passed]
    if not passed:
        found = "; ".join(f"{e.trained.candidate}: {e.reason}" for e in evaluations) or "no candidate was evaluated"
        raise GateRefused(f"No candidate is good enough to be registered: {found}.")
    s = live(services)
    for e in passed:
        _check_stored(s, e.trained)
    registry = _registry(s, actor=actor, run_key=run_key)
    return [registry.register(e) for e in passed]


def stage(
    metric: str,
    *,
    snapshot_digest: str | None = None,
    target: str = "staging",
    run_key: str = "",
    actor: str = "pipeline",
    services: Services | None = None,
) -> ModelRef:
    """Put the registered version with the best `test/<metric>` of a snapshot (default: the newest) into staging.

    GateRefused when `target`, as far as the run was asked to go, is `none`.
    """
    from tire_pipeline.metrics import canonical, names

    if target == "none":
        raise GateRefused("The run was asked to promote nothing; the candidates stay registered.")
    metric = canonical(metric, names(has_positive=True))
    s = live(services)
    registry = _registry(s, actor=actor, run_key=run_key)
    digest = snapshot_digest or s.ledger.newest_snapshot()
    return registry.stage(registry.best(metric, snapshot_digest=digest))


def staged(*, services: Services | None = None) -> ModelRef:
    """The version in staging. InputError when there is none."""
    return _registry(live(services), actor="", run_key="").staged()


def produce(
    metric: str,
    *,
    threshold: float | None = None,
    limits: Mapping[str, Any] | None = None,
    model: ModelRef | None = None,
    target: str = "production",
    run_key: str = "",
    actor: str = "pipeline",
    services: Services | None = None,
) -> PromotionRef:
    """Put the staged model (or `model`) into production if the gate lets it; GateRefused says why not.

    The champion is scored again on the same test images. `threshold` is the metric's absolute bar; `limits` are the
    gate's others by name (`registry.gate.Gate`), its own defaults where they are left out. `target` is as far as the
    run was asked to go.
    """
    from tire_pipeline.metrics import canonical, names
    from tire_pipeline.registry.gate import Gate, decide

    if target != "production":
        raise GateRefused(f"The run was asked to promote as far as {target}; production was not touched.")
    gate = Gate(canonical(metric, names(has_positive=True)), threshold, **(limits or {}))
    s = live(services)
    registry = _registry(s, actor=actor, run_key=run_key)
    model = model or registry.staged()
    champion = registry.champion()
    candidate, opponent = contest(s, model, champion, gate)
    decision = decide(candidate, opponent, gate)
    evidence = {
        "gate": asdict(gate),
        "candidate": asdict(candidate),
        "champion": asdict(opponent) if opponent else None,
        "verdicts": [asdict(v) for v in decision.verdicts],
        "model": model.bundle_digest,
    }
    expected = champion.version if champion else None
    previous = registry.produce(model, decision, evidence, expected=expected)
    log.info("version %d (%s) is in production: %s", model.version, model.candidate, decision.reason)
    value = candidate.metrics[gate.metric]
    return PromotionRef(True, decision.reason, replace(model, metric=gate.metric, value=value), previous, evidence)


def production_info(*, services: Services | None = None) -> dict[str, Any]:
    """The model in production: version, candidate, data, figures, since when and why. InputError when there is none."""
    from tire_pipeline.registry.lifecycle import MOVES

    s = live(services)
    champion = s.tracking.by_alias("production")
    if champion is None:
        raise InputError(f"No model of {s.settings.project} is in production yet. `tire produce METRIC` promotes one.")
    moves = s.ledger.promotions(model=s.settings.project, actions=MOVES)
    moved = next((r for r in moves if r["to_version"] == champion.version), None)
    figures = {k: v for k, v in s.tracking.metrics(champion.run_id).items() if k.startswith("test/")}
    return {
        "model": s.settings.project,
        "version": champion.version,
        "candidate": champion.tags.get("tire.candidate"),
        "dataset_version": champion.tags.get("tire.version"),
        "snapshot": champion.tags.get("tire.snapshot"),
        "bundle_digest": champion.tags.get("tire.bundle_digest"),
        "since": moved["at"].isoformat() if moved else None,
        "reason": moved["reason"] if moved else None,
        "run": s.tracking.run_url(champion.run_id),
        "metrics": figures,
    }


def rollback(*, to: int | None = None, actor: str = "person", services: Services | None = None) -> tuple[int, int]:
    """Put the version before (or `to`) back into production; returns (from, to)."""
    return _registry(live(services), actor=actor, run_key="").rollback(to=to)


def promotions(
    *, run_key: str | None = None, limit: int = 200, services: Services | None = None
) -> list[dict[str, Any]]:
    """The newest `limit` lines of the model's history, the newest first."""
    s = live(services)
    return s.ledger.promotions(model=s.settings.project, run_key=run_key, limit=limit)


def report(
    *,
    version: str,
    run_key: str,
    evaluations: Sequence[EvaluationRef],
    failures: Sequence[str] = (),
    services: Services | None = None,
) -> str:
    """Say what a run decided and why: to Slack where it is configured, and as the returned text."""
    from tire_pipeline.alerts import send
    from tire_pipeline.alerts.run_report import compose

    s = live(services)
    history, url = promotions(run_key=run_key, services=s), report_url(version, services=s)
    text = compose(s.settings.project, version, evaluations, history, failures, data_report=url)
    send(s.settings, text)
    return text


def note_run(dag_id: str, run_id: str, text: str, *, services: Services | None = None) -> None:
    """Put the text on the pipeline run's page. A note that cannot be written is logged and fails nothing."""
    try:
        live(services).orchestrator.set_note(dag_id, run_id, text)
    except TireError as error:
        log.warning("the run's note could not be written: %s It is: %s", error, text)


def _check_stored(s: Services, trained: TrainedRef) -> None:
    from tire_pipeline.registry.lifecycle import bundle_prefix

    with stored_bundle(s, bundle_prefix(trained.key)) as bundle:  # every file is compared with its sha256
        if bundle.digest != trained.bundle_digest:
            raise InputError(
                f"The bundle of {trained.candidate} in {bundle_prefix(trained.key)} has the digest "
                f"{bundle.digest[:12]}…, but {trained.bundle_digest[:12]}… was trained. It was overwritten: train the "
                "candidate again."
            )


def _registry(s: Services, *, actor: str, run_key: str) -> Registry:
    from tire_pipeline.registry.lifecycle import Registry

    return Registry(s.tracking, s.ledger, actor=actor, run_key=run_key)
