"""The main job on a real stack: a version is pushed, Airflow does the rest, people look at the pages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page
from pydantic import SecretStr

from tests.browser import chromium, look
from tests.e2e.conftest import Running, draw, wait_for
from tire_pipeline import steps
from tire_pipeline.settings import Settings
from tire_pipeline.wiring import Services

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def story(running: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run of a version that was pushed, and the folder it came from."""
    folder = draw(tmp_path_factory.mktemp("story") / "pictures")
    running.live.objects.put("datasets/open/good/a.png", (folder / "good/000.png").read_bytes())
    summary = steps.push(folder, version="v1", services=running.live)
    run_id = f"dataset__v1__{summary.marker}"
    return {**running.finished(run_id), "run_id": run_id, "folder": folder}


def test_a_pushed_version_is_trained_promoted_and_served_without_a_hand_on_it(running: Running, story: Any) -> None:
    assert story["state"] == "success", story["note"]
    assert "is in production, because" in story["note"]
    assert any("is in production" in m for m in running.slack.messages)
    info = steps.production_info(services=running.live)
    answers = wait_for(lambda: ask(running, story["folder"], info["version"]), timeout_s=60, what="the server")
    assert [a["label"] for a in answers] == ["defective", "good"]
    assert {a["model_digest"] for a in answers} == {info["bundle_digest"]}


def test_the_history_says_what_was_registered_staged_and_produced(running: Running, story: Any) -> None:
    actions = [r["action"] for r in reversed(steps.promotions(run_key=story["run_id"], services=running.live))]
    assert actions.count("staged") == actions.count("produced") == 1
    assert actions.index("registered") < actions.index("staged") < actions.index("produced")


def test_a_version_without_a_marker_is_not_touched(running: Running, story: Any) -> None:
    listed = {v["version"]: v for v in steps.list_versions(services=running.live)}
    assert not listed["open"]["complete"]
    runs = running.live.orchestrator.runs("train_and_promote")
    assert [r["dag_run_id"] for r in runs if "open" in r["dag_run_id"]] == []


def test_a_version_that_cannot_be_trained_from_fails_with_the_reason_and_the_fix(
    running: Running, story: Any, tmp_path: Path
) -> None:
    summary = steps.push(draw(tmp_path / "one", classes=("good",)), version="one-class", services=running.live)
    record = running.finished(f"dataset__one-class__{summary.marker}")
    assert record["state"] == "failed"
    assert "at least two classes" in record["note"]
    assert "Upload a folder for each class" in record["note"]
    assert any("at least two classes" in m for m in running.slack.messages)


def test_predictions_reach_the_ledger_and_a_broken_camera_reaches_slack(running: Running, story: Any) -> None:
    broken = [("images", (f"{i}.jpg", b"not a picture", "image/jpeg")) for i in range(12)]
    httpx.post(f"{running.live.settings.serving_url}/predict", files=broken, timeout=60).raise_for_status()

    def watched() -> Any:
        record = steps.monitor(services=running.live)
        return record if record["metrics"]["num_errors"] >= 12 else None

    # The alert's way to Slack: the settings of this process get the webhook that the stack's processes have.
    settings = running.live.settings.model_copy(update={"slack_webhook_url": SecretStr(running.slack.url)})
    wait_for(watched, timeout_s=60, what="the predictions in the ledger")
    before = len(running.slack.messages)
    told = Services(settings)
    record = steps.monitor(services=told)
    told.close()
    assert [a["rule"] for a in record["alerts"]] == ["error_share"]
    assert "could not be answered" in running.slack.messages[before]


def test_airflow_reads_every_dag_without_an_error(running: Running) -> None:
    answer = running.live.orchestrator.get("/api/v2/importErrors")
    assert answer["total_entries"] == 0


def test_the_report_on_the_data_is_a_button_of_the_task_that_made_it(running: Running, story: Any) -> None:
    task = f"/api/v2/dags/train_and_promote/dagRuns/{story['run_id']}/taskInstances/validate"
    found = running.live.orchestrator.get(f"{task}/links")["extra_links"]
    assert found["Report on the data"].endswith("/artifacts/report.html")


def test_main_py_answers_to_the_first_names(running: Running, story: Any) -> None:
    env = {**os.environ, "TIRE_HOME": str(running.home)}
    repository = Path(__file__).parents[2]

    def main(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "main.py", *arguments]
        return subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True, check=False)

    options = ["--dataset_version", "v1", "--model_type", "cnn", "--optimizer_type", "adam", "--epochs", "2"]
    trained = main("Train", *options, "--learning_rate", "0.01", "--batch_size", "32")
    assert trained.returncode == 0, trained.stderr
    for command in (["Stage", "Loss"], ["Produce", "Loss"], ["ProductionInfo"]):
        answer = main(*command)
        assert answer.returncode == 0, answer.stderr
    assert "log_loss" in answer.stdout
    refused = main("Train", "--dataset_version", "v1", "--model_type", "cnn", "--learning_rate", "-1")
    assert refused.returncode == 2
    assert "learning_rate is -1" in refused.stderr


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


def sign_in(page: Page, settings: Settings) -> None:
    assert settings.airflow_password
    page.goto(f"{settings.airflow_url}/auth/login/")
    page.get_by_label("Username").fill(settings.airflow_user)
    page.get_by_label("Password").fill(settings.airflow_password.get_secret_value())
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "login" not in url)


def test_a_person_finds_the_finished_run_in_airflow(running: Running, story: Any, browser: Browser) -> None:
    settings = running.live.settings
    page = browser.new_page(viewport={"width": 1500, "height": 950})
    sign_in(page, settings)
    page.goto(f"{settings.airflow_url}/dags/train_and_promote/runs/{story['run_id']}")
    page.get_by_text("check_serving").first.wait_for()
    look(page, "airflow")
    page.close()


def test_a_person_finds_model_card_report_and_history_on_the_tire_page(
    running: Running, story: Any, browser: Browser
) -> None:
    settings = running.live.settings
    assert httpx.get(f"{settings.airflow_url}/tire/").status_code == 401
    info = steps.production_info(services=running.live)
    page = browser.new_page(viewport={"width": 1500, "height": 950})
    sign_in(page, settings)
    page.goto(settings.airflow_url)
    page.get_by_role("link", name="Tire", exact=True).click()
    tire = page.frame_locator("iframe[title=Tire]")
    production = tire.get_by_role("region", name=re.compile("production"))
    production.get_by_text(f"version {info['version']}, trained on {info['dataset_version']}").wait_for()
    look(page, "tire")
    production.get_by_text("Model card").click()
    production.frame_locator("iframe").get_by_text("Figures on the locked test split").wait_for()
    look(page, "tire-card")
    tire.get_by_text("The report, with pictures").click()
    tire.frame_locator("iframe[title^='Report on']").get_by_text("Class balance").wait_for()
    look(page, "tire-report")
    with page.expect_popup() as opened:
        production.get_by_role("link", name="MLflow run").click()
    opened.value.get_by_text("test/balanced_accuracy").first.wait_for()
    opened.value.close()
    page.close()


def test_a_person_finds_the_figures_and_pictures_in_mlflow(running: Running, story: Any, browser: Browser) -> None:
    info = steps.production_info(services=running.live)
    page = browser.new_page(viewport={"width": 1500, "height": 950})
    page.goto(info["run"])
    page.get_by_text("test/balanced_accuracy").first.wait_for()
    look(page, "mlflow")
    page.goto(info["run"] + "/artifacts/evaluation/confusion_matrix.png")
    page.get_by_text("confusion_matrix.png").first.wait_for()
    page.locator("img").last.wait_for()
    look(page, "mlflow-confusion")
    page.close()


def test_a_person_drops_a_picture_on_the_serving_page(running: Running, story: Any, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    page.goto(running.live.settings.serving_url)
    pictures = [story["folder"] / c / "000.png" for c in ("defective", "good")]
    page.locator("input[type=file]").set_input_files(pictures)
    page.get_by_text("000.png").first.wait_for()
    page.get_by_text("Right").first.wait_for()
    look(page, "serving")
    page.close()


def ask(running: Running, folder: Path, version: int) -> list[dict[str, Any]] | None:
    files = [("images", (c, (folder / c / "000.png").read_bytes(), "image/png")) for c in ("defective", "good")]
    answer = httpx.post(f"{running.live.settings.serving_url}/predict", files=files, timeout=30)
    found: list[dict[str, Any]] = answer.json().get("predictions", [])
    return found if found and all(str(a["model_version"]) == str(version) for a in found) else None
