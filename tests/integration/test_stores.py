"""The real PostgreSQL, S3 and MLflow, where a fake could only repeat what its author believed."""

from __future__ import annotations

import math
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
import sqlalchemy as sa

from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.settings import Settings
from tire_pipeline.stores.ledger import Ledger, migrate
from tire_pipeline.stores.objects import ObjectStore, connect
from tire_pipeline.stores.tracking import Tracking
from tire_pipeline.wiring import Services

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TABLES = {"snapshots", "promotions", "predictions", "feedback", "monitoring_windows", "alerts"}


def together(number: int, work: Callable[[int], Any]) -> list[Any]:
    """The results of `work` done by so many threads that start at the same moment."""
    gate = Barrier(number)

    def one(i: int) -> Any:
        gate.wait(20)
        return work(i)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


@pytest.fixture
def engine(stores: Settings):
    assert stores.ledger_url is not None
    made = sa.create_engine(stores.ledger_url.get_secret_value(), poolclass=sa.pool.NullPool)
    yield made
    made.dispose()


@pytest.fixture
def empty_database(engine: sa.Engine):
    """The URL of a database without our schema, which stands aside for the time being."""

    def run(statement: str) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text(statement))

    run("ALTER SCHEMA tire RENAME TO tire_aside")
    try:
        yield engine.url.render_as_string(hide_password=False)
    finally:
        run("DROP SCHEMA IF EXISTS tire CASCADE")
        run("ALTER SCHEMA tire_aside RENAME TO tire")


def prediction(prediction_id: str, **given: Any) -> dict[str, Any]:
    answer = {"label": "good", "probability": 0.9, "probabilities": {"good": 0.9}, "decision": "good", "error": None}
    picture = {"width": 10, "height": 20, "brightness": 1.5, "sharpness": 2.5, "sha256": "ab"}
    model = {"model_version": 1, "model_digest": "d", "latency_ms": 3.0}
    return {"prediction_id": prediction_id, "at": NOON, **answer, **picture, **model, **given}


# S3


def test_more_objects_than_fit_a_page_are_all_listed_once_and_in_order(live: Services) -> None:
    names = [f"many/{i:05d}/x" for i in range(1003)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: live.objects.put(n, b"x"), names))
    assert [i.key for i in live.objects.list("many/")] == names
    assert list(live.objects.list_folders("many/")) == [n.split("/")[1] for n in names]
    assert list(live.objects.list_folders("many/00007/")) == []


def test_an_object_comes_back_as_it_was_put_under_any_key(live: Services) -> None:
    for key in ("a b/ü+%.bin", "tyre #3 & co/1.png", "😀"):
        etag = live.objects.put(key, b"\0\1")
        info = live.objects.head(key)
        assert info is not None
        assert (live.objects.get(key), info.size, info.etag) == (b"\0\1", 2, etag)
        assert [i.key for i in live.objects.list(key)] == [key]
        live.objects.delete(key)
        live.objects.delete(key)
        assert live.objects.head(key) is None


def test_what_is_missing_is_named(live: Services) -> None:
    with pytest.raises(InputError, match=rf"s3://{live.objects.bucket}/absent does not exist"):
        live.objects.get("absent")
    elsewhere = connect(live.settings.model_copy(update={"bucket": "no-such-bucket"}))
    for use in (lambda: elsewhere.get("k"), lambda: elsewhere.put("k", b""), lambda: list(elsewhere.list(""))):
        with pytest.raises(InputError, match=r"The bucket 'no-such-bucket' does not exist .* Create it, or set TIRE_B"):
            use()


def test_a_bucket_is_made_once_however_many_ask(live: Services) -> None:
    stores = [connect(live.settings.model_copy(update={"bucket": f"{live.objects.bucket}x"})) for _ in range(4)]
    together(4, lambda i: stores[i].ensure_bucket())
    stores[0].put("k", b"1")
    stores[1].ensure_bucket()
    assert stores[2].get("k") == b"1"


def test_a_folder_comes_back_as_it_went(live: Services, tmp_path: Path) -> None:
    files = {f"d{i % 7}/ü {i}.bin": bytes([i]) * i for i in range(100)}
    for name, data in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    live.objects.upload_folder(tmp_path / "in", "runs/k/bundle/")
    out = live.objects.download_folder("runs/k/bundle/", tmp_path / "out")
    assert {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()} == files


def test_many_objects_come_in_the_order_asked_for(live: Services) -> None:
    keys = [f"k/{i}" for i in range(200)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda k: live.objects.put(k, k.encode()), keys))
    wanted = keys[::-1] + keys[:3]
    assert list(live.objects.get_many(wanted)) == [k.encode() for k in wanted]


def test_an_s3_that_does_not_answer_is_unavailable(live: Services) -> None:
    away: ObjectStore = connect(live.settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"}))
    with pytest.raises(ServiceUnavailable, match=r"S3 at http://127.0.0.1:9 did not answer"):
        away.get("k")


# The ledger


def test_an_empty_database_is_migrated_by_several_at_once_and_again(empty_database: str, engine: sa.Engine) -> None:
    run = [sys.executable, "-c", "import sys; from tire_pipeline.stores.ledger import migrate; migrate(sys.argv[1])"]
    processes = [subprocess.Popen([*run, empty_database], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [p.communicate(timeout=60)[1] for p in processes] == [""] * 3
    assert [p.returncode for p in processes] == [0] * 3
    record(Ledger(empty_database), "m")
    migrate(empty_database)
    assert len(Ledger(empty_database).promotions(model="m")) == 1
    assert set(sa.inspect(engine).get_table_names(schema="tire")) >= TABLES


CHANGES = ["UPDATE tire.promotions SET reason = 'x'", "DELETE FROM tire.promotions", "TRUNCATE tire.promotions"]


@pytest.mark.parametrize("change", CHANGES)
def test_history_can_be_neither_changed_nor_deleted(live: Services, engine: sa.Engine, change: str) -> None:
    record(live.ledger, live.settings.project)
    with pytest.raises(sa.exc.DBAPIError, match="permission denied for table promotions"), engine.begin() as connection:
        connection.execute(sa.text(change))
    with pytest.raises(sa.exc.DBAPIError, match="promotions is append-only"), engine.begin() as connection:
        connection.execute(sa.text(f"GRANT ALL ON tire.promotions TO CURRENT_USER; {change}"))  # as a superuser would
    assert [r["reason"] for r in live.ledger.promotions(model=live.settings.project)] == ["it is good"]


def record(ledger: Ledger, model: str, **given: Any) -> None:
    row = {"actor": "ann", "action": "produced", "from_version": None, "to_version": 1, "run_key": "r"}
    ledger.record_promotion(**{**row, "model": model, "reason": "it is good", "evidence": {"n": 1}, **given})


def test_history_comes_newest_first_and_by_run_and_action(live: Services) -> None:
    model = live.settings.project
    record(live.ledger, model, action="registered")
    record(live.ledger, model, action="produced", to_version=2)
    record(live.ledger, model, action="refused", to_version=3, run_key="other")
    record(live.ledger, f"{model}-other")
    assert [r["to_version"] for r in live.ledger.promotions(model=model)] == [3, 2, 1]
    assert [r["to_version"] for r in live.ledger.promotions(model=model, run_key="r")] == [2, 1]
    moves = live.ledger.promotions(model=model, actions=["produced", "registered"], limit=1)
    assert [r["action"] for r in moves] == ["produced"]
    assert moves[0]["evidence"] == {"n": 1}
    assert moves[0]["at"].tzinfo is not None


def test_evidence_with_figures_that_json_does_not_know_is_kept_in_words(live: Services) -> None:
    evidence = {"gate": {"threshold": math.inf}, "values": [math.nan, 1.0]}
    record(live.ledger, live.settings.project, evidence=evidence)
    (row,) = live.ledger.promotions(model=live.settings.project)
    assert row["evidence"] == {"gate": {"threshold": "inf"}, "values": ["nan", 1.0]}
    live.ledger.record_window(start=NOON, end=NOON + timedelta(days=1), metrics={"x": math.nan})


def test_a_prediction_is_kept_as_it_was_first_recorded(live: Services) -> None:
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    at = NOON + timedelta(days=zlib_days(live))
    live.ledger.record_predictions([prediction(first, at=at)])
    live.ledger.record_predictions([prediction(first, at=at, label="bad"), prediction(second, at=at)])
    live.ledger.record_predictions([])
    rows = live.ledger.predictions_between(at, at + timedelta(seconds=1))
    assert {r["prediction_id"]: r["label"] for r in rows} == {first: "good", second: "good"}
    assert live.ledger.predictions_between(at - timedelta(seconds=1), at) == []


def zlib_days(live: Services) -> int:
    """A day that no other test's predictions fall on."""
    return int(live.settings.project[1:]) % 100_000


def test_feedback_is_kept_for_a_known_prediction_alone(live: Services) -> None:
    known, unknown = str(uuid.uuid4()), str(uuid.uuid4())
    live.ledger.record_predictions([prediction(known)])
    before = datetime.now(UTC) - timedelta(minutes=1)
    live.ledger.record_feedback(known, "bad", "test")
    told = live.ledger.feedback_between(before, datetime.now(UTC) + timedelta(minutes=1))
    assert {"predicted": "good", "given": "bad"} in told
    for nonsense in (unknown, "no uuid", ""):
        with pytest.raises(InputError, match=f"There is no prediction {nonsense}. Its id stands in the answer"):
            live.ledger.record_feedback(nonsense, "bad", "test")
    with pytest.raises(InputError, match="has no label"):
        live.ledger.record_feedback(known, "", "test")


def test_an_alert_is_sent_once_a_window_and_again_until_it_was_delivered(live: Services) -> None:
    rule = live.settings.project

    def alert(end: datetime = NOON) -> int | None:
        return live.ledger.record_alert(rule=rule, severity="warning", message="m", window_end=end)

    first = alert()
    assert first is not None
    assert alert() == first  # it was not delivered
    live.ledger.mark_delivered(first)
    assert alert() is None
    assert alert(NOON + timedelta(minutes=15)) not in (None, first)
    ids = together(6, lambda _: alert(NOON + timedelta(minutes=30)))
    assert len(set(ids)) == 1


def test_a_window_measured_again_replaces_the_earlier_figures(live: Services) -> None:
    start, end = NOON - timedelta(minutes=15), NOON
    live.ledger.record_window(start=start, end=end, metrics={"n": 1})
    live.ledger.record_window(start=start, end=end, metrics={"n": 2})
    windows = [w for w in live.ledger.windows(before=end, limit=100) if (w["start"], w["end"]) == (start, end)]
    assert [w["metrics"] for w in windows] == [{"n": 2}]
    assert live.ledger.windows(before=start, limit=5) == []


def test_the_newest_snapshot_is_the_last_one_noted_and_noting_it_again_changes_nothing(live: Services) -> None:
    for digest in ("s1", "s2", "s1"):
        name = f"{live.settings.project}-{digest}"
        live.ledger.record_snapshot(digest=name, version="v", num_images=1, classes=["a"])
    assert live.ledger.newest_snapshot() == f"{live.settings.project}-s2"


def test_the_promotion_lock_is_held_by_one_at_a_time_and_freed_by_an_error(live: Services) -> None:
    assert live.settings.ledger_url is not None
    url = live.settings.ledger_url.get_secret_value()
    ours, theirs = Ledger(url), Ledger(url)  # as two processes would
    model, entered, inside = live.settings.project, Event(), []

    def second() -> None:
        with theirs.promotion_lock(f"{model}-other"):
            inside.append("another model's")
        entered.set()
        with theirs.promotion_lock(model):
            inside.append("second")

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError, match="died"), ours.promotion_lock(model):  # noqa: PT012
            waiting = pool.submit(second)
            assert entered.wait(20)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
            inside.append("first")
            raise RuntimeError("died while it held the lock")
        waiting.result(timeout=20)
    assert inside == ["another model's", "first", "second"]
    ours.close()
    theirs.close()


# MLflow


def test_eight_threads_that_register_one_training_make_one_version(live: Services) -> None:
    run_id = live.tracking.start_run("cnn", params={"epochs": 1}, tags={"tire.cache_key": "k"})
    live.tracking.end_run(run_id)

    def register(_: int) -> int:
        with live.ledger.promotion_lock(live.settings.project):
            return live.tracking.register(run_id=run_id, key="k", tags={"tire.candidate": "cnn"}).version

    assert together(8, register) == [1] * 8
    (only,) = live.tracking.versions()
    assert (only.run_id, only.tags["tire.key"], only.tags["tire.candidate"]) == (run_id, "k", "cnn")


def test_an_alias_moves_and_one_that_is_not_set_is_none(live: Services) -> None:
    assert live.tracking.by_alias("production") is None
    assert live.tracking.versions() == []
    run_id = live.tracking.start_run("cnn", params={}, tags={})
    for key in ("a", "b"):
        live.tracking.register(run_id=run_id, key=key, tags={})
    assert live.tracking.by_alias("production") is None
    for number in (1, 2, 1):
        live.tracking.set_alias("production", number)
        found = live.tracking.by_alias("production")
        assert found is not None
        assert found.version == number
    assert [v.version for v in live.tracking.versions()] == [2, 1]


def test_more_versions_than_fit_a_page_are_all_found(live: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = live.tracking.start_run("cnn", params={}, tags={})
    for i in range(5):
        live.tracking.register(run_id=run_id, key=str(i), tags={})
    search = live.tracking._client.search_model_versions
    monkeypatch.setattr(live.tracking._client, "search_model_versions", lambda *a, **k: search(*a, **k, max_results=2))
    assert [v.version for v in live.tracking.versions()] == [5, 4, 3, 2, 1]
    assert live.tracking.register(run_id=run_id, key="0", tags={}).version == 1


def test_a_run_keeps_its_params_metrics_tags_and_files_and_prints_nothing(
    live: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking: Tracking = live.tracking
    run_id = tracking.start_run("cnn", params={"epochs": 3}, tags={"tire.cache_key": "k"})
    assert tracking.find_run("tire.cache_key", "k") is None  # it has not finished
    for step, loss in enumerate((0.5, 0.25)):
        tracking.log_metrics(run_id, {"val/loss": loss, "odd": math.nan}, step=step, at_ms=step + 1)
    for value in (0.9, 0.8):  # measured again, by a mended metric
        tracking.log_metrics(run_id, {"test/recall": value})
    tracking.set_tags(run_id, {"x": "ü"})
    (tmp_path / "a").mkdir()
    (tmp_path / "a/f.txt").write_text("1")
    tracking.log_folder(run_id, tmp_path, to="evaluation")
    tracking.end_run(run_id)
    assert tracking.metrics(run_id)["val/loss"] == 0.25
    assert tracking.metrics(run_id)["test/recall"] == 0.8
    assert tracking.tags(run_id)["x"] == "ü"
    assert tracking.find_run("tire.cache_key", "k") == run_id
    assert run_id in tracking.run_url(run_id)
    assert capsys.readouterr().out == ""


def test_a_run_that_does_not_exist_is_bad_input(live: Services) -> None:
    with pytest.raises(InputError, match=r"MLflow at .* says: .*no-such-run"):
        live.tracking.tags("no-such-run")


def test_candidates_that_start_together_share_one_experiment(live: Services) -> None:
    services = [Services(live.settings) for _ in range(3)]
    ids = together(3, lambda i: services[i].tracking.start_run(f"c{i}", params={}, tags={"t": "1"}))
    assert len(set(ids)) == 3
    assert len({live.tracking.run_url(i).split("/runs/")[0] for i in ids}) == 1
