from __future__ import annotations

import pytest

from tests.unit.fakes import FakeLedger, FakeTracking, evaluation
from tire_pipeline.errors import GateRefused, InputError, ServiceUnavailable
from tire_pipeline.refs import ModelRef
from tire_pipeline.registry.gate import Decision
from tire_pipeline.registry.lifecycle import Registry

YES = Decision(True, "it is good")
NO = Decision(False, "it is bad")


@pytest.fixture
def tracking() -> FakeTracking:
    return FakeTracking()


@pytest.fixture
def ledger() -> FakeLedger:
    return FakeLedger()


@pytest.fixture
def registry(tracking: FakeTracking, ledger: FakeLedger) -> Registry:
    return Registry(tracking, ledger, actor="ann", run_key="r1")  # type: ignore[arg-type]


def registered(registry: Registry, count: int) -> list[ModelRef]:
    return [registry.register(evaluation(f"k{i}", value=0.8 + i / 100)) for i in range(1, count + 1)]


def unanswered() -> None:
    raise ServiceUnavailable("MLflow did not answer")


def history(ledger: FakeLedger) -> list[tuple[str, int | None, int | None]]:
    return [(r["action"], r["from_version"], r["to_version"]) for r in ledger.rows if r["action"] != "registered"]


def test_registering_again_gives_the_same_version_and_one_line_of_history(registry, tracking, ledger) -> None:
    first, second = (registry.register(evaluation("k1")) for _ in range(2))
    assert first == second
    assert (first.version, first.bundle_digest, first.candidate, first.value) == (1, "digest-k1", "cnn", 0.9)
    assert tracking.made[0].tags["tire.bundle"] == "runs/k1/bundle/"
    assert [r["action"] for r in ledger.rows] == ["registered"]
    assert ledger.rows[0]["evidence"]["metrics"]["balanced_accuracy"] == 0.9


def test_a_candidate_that_did_not_pass_is_never_registered(registry, tracking) -> None:
    with pytest.raises(GateRefused, match=r"cnn is not registered: balanced_accuracy 0\.700"):
        registry.register(evaluation(value=0.7, passed=False))
    assert tracking.made == []


def test_a_registration_whose_record_failed_is_completed_on_repeat(registry, tracking, ledger) -> None:
    ledger.fail_records = 1
    with pytest.raises(ServiceUnavailable):
        registry.register(evaluation())
    assert registry.register(evaluation()).version == 1
    assert [r["to_version"] for r in ledger.rows] == [1]


def test_the_best_is_picked_by_the_metric_within_its_snapshot(registry, tracking) -> None:
    registered(registry, 2)
    registry.register(evaluation("other", snapshot="s2"))
    tracking.values = {
        "run-k1": {"test/recall": 0.7, "test/log_loss": 0.2},
        "run-k2": {"test/recall": 0.8, "test/log_loss": 0.3},
        "run-other": {"test/recall": 0.99, "test/log_loss": 0.01},
    }
    assert (registry.best("recall", snapshot_digest="s1").version, 0.8) == (2, 0.8)
    best = registry.best("log_loss", snapshot_digest="s1")
    assert (best.version, best.metric, best.value) == (1, "log_loss", 0.2)
    with pytest.raises(InputError, match=r"snapshot s3 and has test/recall. Train, evaluate and register one first"):
        registry.best("recall", snapshot_digest="s3")


def test_a_version_without_the_metric_is_no_rival_and_no_number_beats_nothing(registry, tracking) -> None:
    registered(registry, 3)
    tracking.values = {"run-k1": {"test/recall": 0.1}, "run-k2": {"test/recall": float("nan")}}
    assert registry.best("recall", snapshot_digest="s1").version == 1


def test_staging_is_written_once_a_run_and_follows_the_latest_choice(registry, tracking, ledger) -> None:
    one, two = registered(registry, 2)
    for model in (one, one, two, two, one):
        registry.stage(model)
    assert tracking.aliases == {"staging": 1}
    assert history(ledger) == [("staged", None, 1), ("staged", 1, 2), ("staged", 2, 1)]
    assert registry.staged().version == 1


def test_nothing_in_staging_is_said_with_the_command(registry) -> None:
    with pytest.raises(InputError, match="`tire stage METRIC`"):
        registry.staged()


def test_a_promotion_moves_the_aliases_and_is_written_down_once(registry, tracking, ledger) -> None:
    one, two = registered(registry, 2)
    assert registry.produce(one, YES, {"n": 1}, expected=None) is None
    assert registry.produce(two, YES, {"n": 2}, expected=1) == 1
    registry.produce(two, YES, {"n": 2}, expected=2)
    assert tracking.aliases == {"production": 2, "previous": 1}
    assert history(ledger) == [("produced", None, 1), ("produced", 1, 2)]
    assert (ledger.rows[-1]["actor"], ledger.rows[-1]["reason"], ledger.rows[-1]["run_key"]) == (
        "ann",
        "it is good",
        "r1",
    )


def test_a_refused_promotion_is_written_down_and_moves_nothing(registry, tracking, ledger) -> None:
    one, two = registered(registry, 2)
    registry.produce(one, YES, {}, expected=None)
    with pytest.raises(GateRefused, match=r"cnn \(version 2\) stays out of production: it is bad"):
        registry.produce(two, NO, {"why": 1}, expected=1)
    assert tracking.aliases == {"production": 1}
    assert history(ledger)[-1] == ("refused", 1, 2)
    assert ledger.rows[-1]["evidence"] == {"why": 1}


def test_a_persons_refusal_is_written_down_once_and_moves_nothing(registry, tracking, ledger) -> None:
    one, two = registered(registry, 2)
    registry.produce(one, YES, {}, expected=None)
    for _ in range(2):
        registry.refuse(two, "ann rejected it in Airflow")
    assert tracking.aliases == {"production": 1}
    assert history(ledger) == [("produced", None, 1), ("refused", 1, 2)]
    assert ledger.rows[-1]["reason"] == "ann rejected it in Airflow"


def test_a_decision_against_a_champion_that_no_longer_serves_is_stale(registry, tracking, ledger) -> None:
    one, two, three = registered(registry, 3)
    registry.produce(one, YES, {}, expected=None)
    registry.produce(two, YES, {}, expected=1)
    with pytest.raises(GateRefused, match="version 2 went into production since this was decided against version 1"):
        registry.produce(three, YES, {}, expected=1)
    assert tracking.aliases["production"] == 2
    assert history(ledger)[-1] == ("refused", 2, 3)


def test_a_crash_between_alias_and_record_is_completed_on_repeat(registry, tracking, ledger) -> None:
    one, two = registered(registry, 2)
    registry.produce(one, YES, {}, expected=None)
    ledger.fail_records = 1
    with pytest.raises(ServiceUnavailable):
        registry.produce(two, YES, {}, expected=1)
    assert tracking.aliases == {"production": 2, "previous": 1}
    registry.produce(two, YES, {}, expected=2)  # as the step says that starts again and finds 2 in production
    assert tracking.aliases == {"production": 2, "previous": 1}
    assert history(ledger) == [("produced", None, 1), ("produced", 1, 2)]


def test_a_rollback_goes_back_and_forth(registry, tracking, ledger) -> None:
    one, two = registered(registry, 2)
    registry.produce(one, YES, {}, expected=None)
    registry.produce(two, YES, {}, expected=1)
    assert registry.rollback() == (2, 1)
    assert tracking.aliases == {"production": 1, "previous": 2}
    assert registry.rollback() == (1, 2)
    assert registry.rollback(to=1) == (2, 1)
    assert registry.rollback(to=1) == (1, 1)
    moves = [(2, 1), (1, 2), (2, 1)]
    assert history(ledger)[2:] == [("rolled_back", *m) for m in moves]


@pytest.mark.parametrize("broken", ["ledger", "tracking"])
def test_a_rollback_that_failed_can_be_repeated_and_never_goes_forward(registry, tracking, ledger, broken) -> None:
    one, two = registered(registry, 2)
    registry.produce(one, YES, {}, expected=None)
    registry.produce(two, YES, {}, expected=1)
    ledger.fail_records, tracking.fail_alias = (1, 0) if broken == "ledger" else (0, 1)
    with pytest.raises(ServiceUnavailable):
        registry.rollback()
    assert registry.rollback() == (2, 1)
    assert tracking.aliases == {"production": 1, "previous": 2}
    assert history(ledger)[2:] == [("rolled_back", 2, 1)]


@pytest.mark.parametrize("to", [None, 1])
def test_a_rollback_whose_second_alias_failed_is_completed_and_can_be_taken_back(registry, tracking, to) -> None:
    one, two = registered(registry, 2)
    registry.produce(one, YES, {}, expected=None)
    registry.produce(two, YES, {}, expected=1)
    tracking.fail_alias_named = "previous"
    assert registry.rollback() == (2, 1)
    assert tracking.aliases == {"production": 1, "previous": 1}
    tracking.fail_alias_named = ""
    assert registry.rollback(to=to) == (2, 1)
    assert tracking.aliases == {"production": 1, "previous": 2}
    assert registry.rollback() == (1, 2)


def cut_between_its_aliases(registry, tracking) -> None:
    """Version 2 serves, after 1, and the promotion of 3 has moved `previous` alone."""
    one, two, three = registered(registry, 3)
    registry.produce(one, YES, {}, expected=None)
    registry.produce(two, YES, {}, expected=1)
    tracking.fail_alias_named = "production"
    with pytest.raises(ServiceUnavailable):
        registry.produce(three, YES, {}, expected=2)
    tracking.fail_alias_named = ""


def test_a_rollback_whose_first_answer_was_lost_is_completed_by_the_next(registry, tracking, ledger) -> None:
    for model in registered(registry, 3):
        registry.produce(model, YES, {}, expected=tracking.aliases.get("production"))
    tracking.then["set_alias", "production"] = unanswered
    with pytest.raises(ServiceUnavailable):
        registry.rollback(to=1)
    assert registry.rollback() == (3, 1)
    assert tracking.aliases == {"production": 1, "previous": 3}
    assert history(ledger)[3:] == [("rolled_back", 3, 1)]


def test_a_rollback_after_half_a_promotion_does_not_go_forward_either(registry, tracking) -> None:
    cut_between_its_aliases(registry, tracking)
    tracking.then["set_alias", "production"] = unanswered
    with pytest.raises(ServiceUnavailable):
        registry.rollback()
    assert registry.rollback() == (2, 1)
    assert tracking.aliases == {"production": 1, "previous": 2}


def test_a_move_by_hand_is_written_down_and_can_be_taken_back(registry, tracking, ledger) -> None:
    for model in registered(registry, 2):
        registry.produce(model, YES, {}, expected=tracking.aliases.get("production"))
    tracking.set_alias("production", 1)
    assert registry.rollback() == (1, 2)
    assert history(ledger)[2:] == [("produced", 2, 1), ("rolled_back", 1, 2)]


def test_a_rollback_whose_last_answer_was_lost_is_done_and_need_not_be_repeated(registry, tracking, caplog) -> None:
    for model in registered(registry, 2):
        registry.produce(model, YES, {}, expected=tracking.aliases.get("production"))
    tracking.then["set_alias", "previous"] = unanswered
    assert registry.rollback() == (2, 1)
    assert tracking.aliases == {"production": 1, "previous": 2}
    assert "the rollback is done, but `previous` may not be on version 2 yet: MLflow did not answer" in caplog.text


def test_a_rollback_that_lost_its_lock_at_the_end_is_done(registry, tracking, ledger) -> None:
    for model in registered(registry, 2):
        registry.produce(model, YES, {}, expected=tracking.aliases.get("production"))
    tracking.then["set_alias", "production"] = lambda: setattr(ledger, "locked", None)
    assert registry.rollback() == (2, 1)
    assert tracking.aliases == {"production": 1, "previous": 1}
    assert registry.rollback() == (2, 1)
    assert tracking.aliases == {"production": 1, "previous": 2}


@pytest.mark.parametrize("moment", [("by_alias", "production"), ("set_alias", "previous"), ("set_alias", "production")])
def test_who_lost_the_lock_moves_and_records_nothing_more(registry, tracking, ledger, moment) -> None:
    one, two, three = registered(registry, 3)
    registry.produce(two, YES, {}, expected=None)
    moved = moment == ("set_alias", "production")

    def another_promoter() -> None:
        ledger.locked = None
        other = Registry(tracking, ledger, actor="bob", run_key="r2")
        other.produce(three, YES, {}, expected=1 if moved else 2)

    tracking.then[moment] = another_promoter
    with pytest.raises(ServiceUnavailable, match="the lock was lost"):
        registry.produce(one, YES, {}, expected=2)
    serving_before = 1 if moved else 2
    assert tracking.aliases == {"production": 3, "previous": serving_before}
    between = [("produced", 2, 1)] if moved else []
    assert history(ledger) == [("produced", None, 2), *between, ("produced", serving_before, 3)]


def test_every_version_that_served_without_a_record_gets_one_at_the_next_promotion(registry, tracking, ledger) -> None:
    one, two, three = registered(registry, 3)
    for model, expected in ((one, None), (two, 1)):
        tracking.then["set_alias", "production"] = lambda: setattr(ledger, "fail_records", 1)
        with pytest.raises(ServiceUnavailable):
            registry.produce(model, YES, {}, expected=expected)
    registry.produce(three, YES, {}, expected=2)
    assert history(ledger) == [("produced", None, 1), ("produced", 1, 2), ("produced", 2, 3)]
    assert ["without a record" in r["reason"] for r in ledger.rows if r["action"] == "produced"] == [True, True, False]


@pytest.mark.parametrize(
    ("go_on", "rows"),
    [
        (lambda registry, _: registry.rollback(), []),
        (lambda registry, _: registry.rollback(to=1), []),
        (lambda registry, _: registry.rollback(to=3), [("produced", 1, 3)]),
        (lambda registry, _: registry.rollback(to=2), [("produced", 1, 3), ("rolled_back", 3, 2)]),
        (lambda registry, one: registry.produce(one, YES, {}, expected=3), [("produced", 1, 3), ("produced", 3, 1)]),
    ],
    ids=["gone on with", "repeated", "given up", "another one instead", "a promotion instead"],
)
def test_the_history_ends_with_what_serves_after_a_rollback_that_was_recorded_and_not_done(
    registry, tracking, ledger, go_on, rows
) -> None:
    one, *_ = models = registered(registry, 3)
    for model in models:
        registry.produce(model, YES, {}, expected=tracking.aliases.get("production"))
    tracking.fail_alias_named = "production"
    with pytest.raises(ServiceUnavailable):
        registry.rollback(to=1)
    tracking.fail_alias_named = ""
    go_on(registry, one)
    assert history(ledger)[3:] == [("rolled_back", 3, 1), *rows]
    assert tracking.aliases["production"] == history(ledger)[-1][2]


def test_a_promotion_cut_short_between_its_aliases_does_not_lose_the_version_before(registry, tracking, ledger) -> None:
    cut_between_its_aliases(registry, tracking)
    assert tracking.aliases == {"production": 2, "previous": 2}
    assert registry.rollback() == (2, 1)
    assert tracking.aliases == {"production": 1, "previous": 2}
    assert history(ledger)[-1] == ("rolled_back", 2, 1)


def test_a_promotion_without_its_record_is_written_down_before_it_is_rolled_back(registry, ledger) -> None:
    one, two = registered(registry, 2)
    registry.produce(one, YES, {}, expected=None)
    ledger.fail_records = 1
    with pytest.raises(ServiceUnavailable):
        registry.produce(two, YES, {}, expected=1)
    assert registry.rollback() == (2, 1)
    assert history(ledger) == [("produced", None, 1), ("produced", 1, 2), ("rolled_back", 2, 1)]
    assert "without a record" in ledger.rows[-2]["reason"]
    assert ledger.rows[-1]["evidence"] == {"bundles": {"1": "digest-k1", "2": "digest-k2"}}


def test_a_persons_refusal_is_written_down_although_the_gate_refused_before(registry, ledger) -> None:
    one, two = registered(registry, 2)
    registry.produce(one, YES, {}, expected=None)
    with pytest.raises(GateRefused):
        registry.produce(two, NO, {}, expected=1)
    registry.refuse(two, "ann rejected it in Airflow")
    assert [r["reason"] for r in ledger.rows if r["action"] == "refused"] == ["it is bad", "ann rejected it in Airflow"]


def test_a_rollback_without_anything_to_go_back_to_says_so(registry, tracking) -> None:
    (one,) = registered(registry, 1)
    with pytest.raises(InputError, match="no earlier version in production"):
        registry.rollback()
    registry.produce(one, YES, {}, expected=None)
    with pytest.raises(InputError, match="no earlier version in production"):
        registry.rollback()
    with pytest.raises(InputError, match="has no version 9"):
        registry.rollback(to=9)
    assert tracking.aliases == {"production": 1}


def test_the_history_still_knows_the_champion_after_many_refusals(registry, ledger) -> None:
    one, two = registered(registry, 2)
    registry.produce(one, YES, {}, expected=None)
    for _ in range(210):
        with pytest.raises(GateRefused):
            registry.produce(two, NO, {}, expected=1)
    registry.produce(one, YES, {}, expected=1)
    assert sum(action == "produced" for action, *_ in history(ledger)) == 1
