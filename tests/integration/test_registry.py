"""The registry over the real ledger and MLflow: what its unit tests prove with fakes holds with what it is made for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.unit.fakes import evaluation
from tire_pipeline.errors import GateRefused, ServiceUnavailable
from tire_pipeline.refs import EvaluationRef, ModelRef
from tire_pipeline.registry.gate import Decision
from tire_pipeline.registry.lifecycle import Registry
from tire_pipeline.stores.ledger import Ledger
from tire_pipeline.wiring import Services

YES = Decision(True, "it is good")
NO = Decision(False, "it is bad")


class FailingLedger:
    """The real ledger, which loses its connection when the next promotion is to be recorded."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self.failures = ledger, 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def record_promotion(self, **row: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise ServiceUnavailable("PostgreSQL went away")
        self._ledger.record_promotion(**row)


@pytest.fixture
def registry(live: Services) -> Registry:
    return Registry(live.tracking, live.ledger, actor="ann", run_key="r1")


def trained(live: Services, key: str, **metrics: float) -> EvaluationRef:
    """An evaluation whose MLflow run exists and has these test metrics."""
    run_id = live.tracking.start_run("cnn", params={}, tags={"tire.cache_key": key})
    live.tracking.log_metrics(run_id, {f"test/{k}": v for k, v in metrics.items()})
    live.tracking.end_run(run_id)
    made = evaluation(key)
    return EvaluationRef.from_dict({**made.__dict__, "trained": {**made.trained.__dict__, "run_id": run_id}})


def two(live: Services, registry: Registry) -> tuple[ModelRef, ModelRef]:
    first = registry.register(trained(live, "a", recall=0.7, log_loss=0.2))
    return first, registry.register(trained(live, "b", recall=0.8, log_loss=0.3))


def aliases(live: Services) -> dict[str, int | None]:
    found = {a: live.tracking.by_alias(a) for a in ("staging", "production", "previous")}
    return {a: v.version for a, v in found.items() if v is not None}


def moves(live: Services) -> list[tuple[str, int | None, int | None]]:
    rows = live.ledger.promotions(model=live.settings.project)
    return [(r["action"], r["from_version"], r["to_version"]) for r in rows[::-1] if r["action"] != "registered"]


def test_the_best_of_two_versions_follows_the_metric_also_where_lower_is_better(live: Services, registry) -> None:
    two(live, registry)
    assert registry.best("recall", snapshot_digest="s1").version == 2
    best = registry.best("log_loss", snapshot_digest="s1")
    assert (best.version, best.value, best.candidate) == (1, 0.2, "cnn")


def test_a_refused_promotion_is_written_down_and_moves_no_alias(live: Services, registry) -> None:
    first, second = two(live, registry)
    registry.stage(second)
    registry.produce(first, YES, {}, expected=None)
    before = aliases(live)
    with pytest.raises(GateRefused, match="it is bad"):
        registry.produce(second, NO, {"value": 0.7}, expected=1)
    assert aliases(live) == before == {"staging": 2, "production": 1}
    (newest, *_) = live.ledger.promotions(model=live.settings.project)
    assert (newest["action"], newest["reason"], newest["evidence"]) == ("refused", "it is bad", {"value": 0.7})
    assert (newest["actor"], newest["run_key"], len(newest["evidence_digest"])) == ("ann", "r1", 64)


def test_a_stale_promotion_is_refused(live: Services, registry) -> None:
    first, second = two(live, registry)
    registry.produce(first, YES, {}, expected=None)
    with pytest.raises(GateRefused, match="version 1 went into production since this was decided against version None"):
        registry.produce(second, YES, {}, expected=None)
    assert aliases(live) == {"production": 1}


def test_of_two_who_promote_at_once_one_is_stale(live: Services, registry) -> None:
    models = two(live, registry)

    def produce(model: ModelRef) -> str:
        mine = Services(live.settings)
        try:
            Registry(mine.tracking, mine.ledger, actor="x", run_key="r").produce(model, YES, {}, expected=None)
        except GateRefused:
            return "stale"
        return "produced"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(produce, models)) == ["produced", "stale"]
    assert sorted(action for action, *_ in moves(live)) == ["produced", "refused"]


def test_a_crash_between_alias_and_record_is_completed_on_repeat(live: Services, registry) -> None:
    first, second = two(live, registry)
    registry.produce(first, YES, {}, expected=None)
    crashing = Registry(live.tracking, FailingLedger(live.ledger), actor="ann", run_key="r1")  # type: ignore[arg-type]
    with pytest.raises(ServiceUnavailable, match="went away"):
        crashing.produce(second, YES, {}, expected=1)
    assert aliases(live) == {"production": 2, "previous": 1}
    registry.produce(second, YES, {}, expected=2)
    assert aliases(live) == {"production": 2, "previous": 1}
    assert moves(live) == [("produced", None, 1), ("produced", 1, 2)]


def test_a_rollback_goes_back_and_forth(live: Services, registry) -> None:
    first, second = two(live, registry)
    registry.produce(first, YES, {}, expected=None)
    registry.produce(second, YES, {}, expected=1)
    assert registry.rollback() == (2, 1)
    assert registry.rollback() == (1, 2)
    assert aliases(live) == {"production": 2, "previous": 1}
    assert moves(live)[2:] == [("rolled_back", 2, 1), ("rolled_back", 1, 2)]
