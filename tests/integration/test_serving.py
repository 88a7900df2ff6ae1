"""The serving process as `tire serve` starts it, before real PostgreSQL, S3 and MLflow, asked over real HTTP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.servers import DEADLINE_S, NOWHERE, RED, Load, Production, make_bundle, started, until
from tire_pipeline.bundle import Session
from tire_pipeline.imaging import prepare
from tire_pipeline.settings import Settings
from tire_pipeline.wiring import Services


def test_the_server_waits_for_the_first_promotion_then_answers_records_and_takes_feedback(
    production: Production,
) -> None:
    server = production.serve()
    refused = server.predict()
    assert refused.status_code == 503 and refused.json()["error"].startswith("No model is in production yet; ")
    bundle = production.bundle("one", gain=1)
    version = production.promote("one", bundle)
    server.wait_for(version)
    (prediction,) = server.predict().json()["predictions"]
    assert (prediction["label"], prediction["model_digest"]) == ("defective", bundle.digest)
    assert server.predict(b"no image").json()["predictions"][0]["error"]
    given = server.client.post("/feedback", json={"prediction_id": prediction["prediction_id"], "label": "good"})
    assert given.status_code == 200, given.text
    rows = {row["error"] is None: row for row in production.recorded()}
    assert rows[True]["prediction_id"] == prediction["prediction_id"] and rows[True]["width"] == 24
    assert "no readable image" in rows[False]["error"]


def test_a_promotion_under_load_fails_no_request_and_every_answer_is_of_the_model_it_names(
    production: Production,
) -> None:
    bundles = [production.bundle(f"m{i}", gain=1 + i) for i in range(3)]
    server = production.serve_version(production.promote("m0", bundles[0]))
    load = Load(server)
    with load.running():
        for i in (1, 2):
            server.wait_for(production.promote(f"m{i}", bundles[i]))
        enough = len(load.answers) + 200
        until(lambda: len(load.answers) >= enough, "200 more answers")
    assert not load.failures
    truth = {b.digest: float(Session(b).probabilities(prepare(RED, b.preprocessing)[None])[0, 0]) for b in bundles}
    assert {a["model_digest"] for a in load.answers} == set(truth)
    for answer in load.answers:
        assert answer["probabilities"]["defective"] == pytest.approx(truth[answer["model_digest"]], abs=1e-5)


def test_a_bundle_that_lies_is_refused_and_the_old_one_goes_on(production: Production) -> None:
    good = production.promote("good", production.bundle("good", gain=1))
    server = production.serve_version(good)
    production.promote("lying", production.bundle("lying", gain=2, lie=0.01))
    until(lambda: "model_refused_total 1.0" in server.client.get("/metrics").text, "the refusal is counted")
    assert server.version() == good and server.predict().json()["predictions"][0]["model_version"] == good
    assert "off what it promises" in server.log.read_text()


def test_the_server_starts_without_its_stores_and_hands_over_later_what_it_predicted(production: Production) -> None:
    version = production.promote("one", production.bundle("one", gain=1))
    assert production.serve_version(version).terminate() == 0
    away = {
        "mlflow_url": f"http://{NOWHERE}",
        "s3_endpoint_url": f"http://{NOWHERE}",
        "ledger_url": type(production.live.settings.ledger_url)(f"postgresql+psycopg2://nobody@{NOWHERE}/x"),
    }
    alone = production.serve(**away)
    assert alone.version() == version
    answers = [alone.predict().json()["predictions"][0] for _ in range(20)]
    assert alone.terminate() == 0
    assert production.recorded() == []
    production.serve()
    until(lambda: len(production.recorded()) == 20, "the predictions are handed over")
    assert {row["prediction_id"] for row in production.recorded()} == {a["prediction_id"] for a in answers}


def test_sigterm_under_load_loses_no_accepted_request_and_no_prediction(production: Production) -> None:
    server = production.serve_version(production.promote("one", production.bundle("one", gain=1)))
    load = Load(server)
    with load.running():
        until(lambda: len(load.answers) >= 100, "100 answers")
        assert server.terminate() == 0
    assert set(load.failures) <= {"ConnectError", "RemoteProtocolError", "ReadError"}, load.failures
    assert {a["prediction_id"] for a in load.answers} == {row["prediction_id"] for row in production.recorded()}
    assert not list((production.live.settings.home / "serving" / "spool").glob("*"))


def test_a_bundle_folder_is_served_alone_and_the_process_stays_small(live: Services, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", gain=1)
    settings = Settings(home=tmp_path / "home", project=live.settings.project)
    with started(settings, tmp_path / "log", "--bundle", str(bundle.path)) as server:
        (answer,) = server.predict().json()["predictions"]
        assert (answer["model_version"], answer["model_digest"]) == (0, bundle.digest)
        assert server.client.get("/model").json()["feedback"] is False
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        rss_mb = int(status.split("VmRSS:")[1].split()[0]) / 1024
        assert rss_mb < 200
        assert "torch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
        assert server.terminate() == 0
    assert not (settings.home / "serving").exists()


def test_a_folder_that_is_no_bundle_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tire_pipeline", "serve", "--bundle", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 2
    assert "is no bundle" in done.stderr and "Traceback" not in done.stderr


def test_a_staged_version_is_scored_beside_production_and_takes_its_share(production: Production) -> None:
    champion = production.promote("one", production.bundle("one", gain=1))
    server = production.serve(canary_weight=0.5)
    server.wait_for(champion)
    assert server.client.get("/model").json()["challenger"] is None
    staged = production.promote("two", production.bundle("two", gain=1.1), alias="staging")
    until(lambda: (server.client.get("/model").json()["challenger"] or {}).get("version") == staged, "it is followed")
    versions = [server.predict().json()["predictions"][0]["model_version"] for _ in range(40)]
    assert versions.count(champion) == versions.count(staged) == 20
    until(lambda: server.client.get("/model").json()["challenger"]["compared"] == 40, "both have scored all")
    until(lambda: len(production.recorded()) == 40, "each is recorded once")
    production.live.tracking.set_alias("production", staged)
    server.wait_for(staged)
    until(lambda: server.client.get("/model").json()["challenger"] is None, "the champion is nobody's challenger")
