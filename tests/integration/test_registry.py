"""The registry over the real ledger and MLflow: what its unit tests prove with fakes holds with what it is made for."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from tests.unit.fakes import evaluation
from tire_pipeline.errors import GateRefused, ServiceUnavailable
from tire_pipeline.refs import EvaluationRef, ModelRef, digest_of
from tire_pipeline.registry.gate import Decision
from tire_pipeline.registry.lifecycle import Registry
from tire_pipeline.stores.ledger import Ledger
from tire_pipeline.stores.tracking import Tracking
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


class Interrupted:
    """The real MLflow; something happens whenever `method` took effect on `alias`, before its caller goes on."""

    def __init__(self, tracking: Tracking, method: str, alias: str, then: Callable[[], object]) -> None:
        self._tracking, self._method, self._alias, self._then = tracking, method, alias, then

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._tracking, name)

        def interrupted(alias: str, *rest: int) -> Any:
            found = real(alias, *rest)
            if alias == self._alias:
                self._then()
            return found

        return interrupted if name == self._method else real


def end_lock(live: Services) -> None:
    """PostgreSQL ends the session that holds the promotion lock."""
    assert live.settings.ledger_url is not None
    engine = sa.create_engine(live.settings.ledger_url.get_secret_value(), poolclass=sa.pool.NullPool)
    query = """SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND granted
               AND (classid::bigint << 32) | objid::bigint = hashtextextended(:model, 0)"""
    with engine.begin() as connection:
        assert connection.execute(sa.text(query), {"model": live.settings.project}).scalars().all() == [True]


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


@pytest.mark.parametrize("moment", [("by_alias", "production"), ("set_alias", "previous")], ids=["read", "moved"])
def test_a_promoter_whose_session_is_ended_leaves_production_to_the_next(live: Services, registry, moment) -> None:
    first, second = two(live, registry)
    third = registry.register(trained(live, "c", recall=0.9))
    registry.produce(second, YES, {}, expected=None)

    def another_promoter() -> None:
        end_lock(live)
        registry.produce(third, YES, {}, expected=2)

    tracking: Any = Interrupted(live.tracking, *moment, another_promoter)
    with pytest.raises(ServiceUnavailable, match=r"lock on .* was lost"):
        Registry(tracking, live.ledger, actor="bob", run_key="r2").produce(first, YES, {}, expected=2)
    assert aliases(live) == {"production": 3, "previous": 2}
    assert moves(live) == [("produced", None, 2), ("produced", 2, 3)]


@pytest.mark.parametrize("alias", ["production", "previous"])
def test_a_rollback_whose_session_is_ended_after_it_moved_is_done(live: Services, registry, caplog, alias) -> None:
    first, second = two(live, registry)
    registry.produce(first, YES, {}, expected=None)
    registry.produce(second, YES, {}, expected=1)
    tracking: Any = Interrupted(live.tracking, "set_alias", alias, lambda: end_lock(live))
    assert Registry(tracking, live.ledger, actor="bob", run_key="").rollback() == (2, 1)
    assert ("had died" if alias == "previous" else "the rollback is done") in caplog.text
    assert aliases(live)["production"] == 1
    assert moves(live)[2:] == [("rolled_back", 2, 1)]


def test_a_rollback_goes_back_and_forth(live: Services, registry) -> None:
    first, second = two(live, registry)
    registry.produce(first, YES, {}, expected=None)
    registry.produce(second, YES, {}, expected=1)
    assert registry.rollback() == (2, 1)
    assert registry.rollback() == (1, 2)
    assert aliases(live) == {"production": 2, "previous": 1}
    assert moves(live)[2:] == [("rolled_back", 2, 1), ("rolled_back", 1, 2)]


def test_of_32_who_register_one_training_at_once_all_get_one_version(live: Services) -> None:
    passed = trained(live, "a", recall=0.7)
    barrier = threading.Barrier(32)

    def register(i: int) -> int:
        mine = Services(live.settings)
        barrier.wait(60)
        try:
            return Registry(mine.tracking, mine.ledger, actor=f"worker {i}", run_key="r").register(passed).version
        finally:
            mine.close()

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(register, range(32))) == [1] * 32
    assert [v.version for v in live.tracking.versions()] == [1]
    (row,) = live.ledger.promotions(model=live.settings.project)
    assert (row["action"], row["to_version"]) == ("registered", 1)


@pytest.mark.parametrize(
    "rounds", [8, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(3000)])], ids=lambda n: f"{n} rounds"
)
def test_of_two_promoters_and_a_stale_one_the_better_valid_one_wins_every_round(
    live: Services, registry: Registry, rounds: int
) -> None:
    """Two decide against what serves, again when it has changed meanwhile; the third decided a round ago."""
    models = [registry.register(trained(live, f"k{i}", recall=0.5)) for i in range(5)]
    rng, wins, stale_wins, outdated = random.Random(0), 0, 0, None
    registry.produce(models[0], YES, {}, expected=None)
    for _ in range(rounds):
        serving = live.tracking.by_alias("production")
        assert serving is not None
        better, good, stale = rng.sample([m for m in models if m.version not in (serving.version, outdated)], 3)
        worth = {serving.version: 0.0, good.version: 0.5, better.version: 1.0}
        delays = {m.version: rng.random() * 0.02 for m in models}

        def promote(model: ModelRef, *, worth: dict[int, float] = worth, delays: dict[int, float] = delays) -> None:
            mine = Services(live.settings)
            own = Registry(mine.tracking, mine.ledger, actor="valid", run_key="r")
            try:
                while worth[(champion := own.champion()).version] < worth[model.version]:  # type: ignore[union-attr]
                    threading.Event().wait(delays[model.version])
                    try:
                        own.produce(model, YES, {"worth": worth[model.version]}, expected=champion.version)  # type: ignore[union-attr]
                    except GateRefused:
                        continue
            finally:
                mine.close()

        def late(
            model: ModelRef = stale, *, expected: int | None = outdated, delays: dict[int, float] = delays
        ) -> bool:
            mine = Services(live.settings)
            threading.Event().wait(delays[model.version])
            try:
                Registry(mine.tracking, mine.ledger, actor="stale", run_key="r").produce(
                    model, YES, {}, expected=expected
                )
            except GateRefused:
                return False
            finally:
                mine.close()
            return True

        with ThreadPoolExecutor(3) as pool:
            valid, stale_won = [pool.submit(promote, m) for m in (better, good)], pool.submit(late)
            for promoter in valid:
                promoter.result(120)
            stale_wins += stale_won.result(120)
        wins += aliases(live)["production"] == better.version
        outdated = serving.version
    assert (wins, stale_wins) == (rounds, 0)
    rows = live.ledger.promotions(model=live.settings.project, limit=10_000)[::-1]
    produced = [r for r in rows if r["action"] == "produced"]
    assert [r["from_version"] for r in produced[1:]] == [r["to_version"] for r in produced[:-1]]
    assert all(r["evidence_digest"] == digest_of(r["evidence"]) for r in rows)
    assert not [r for r in rows if r["actor"] == "stale" and r["action"] != "refused"]
