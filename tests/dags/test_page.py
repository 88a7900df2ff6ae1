"""The Tire page as Airflow's API server mounts it, without stores behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import tire_page
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tire_airflow import page

from tire_pipeline import steps
from tire_pipeline.errors import InputError, ServiceUnavailable

PATHS = ["/tire/", "/tire/card/1", f"/tire/data/{'0' * 64}", "/tire/frame.js", "/tire/icon.svg"]


@pytest.fixture
def client() -> Iterator[TestClient]:
    """Somebody who has not signed in."""
    airflow = FastAPI()
    (mounted,) = tire_page.TirePlugin.fastapi_apps
    airflow.mount(mounted["url_prefix"], mounted["app"])
    with TestClient(airflow) as client:
        yield client


@pytest.fixture
def signed_in(client: TestClient) -> Iterator[TestClient]:
    """Somebody who may see the DAG."""
    page.app.dependency_overrides[page.may_see] = lambda: None
    yield client
    page.app.dependency_overrides.clear()


@pytest.mark.parametrize("path", [*PATHS, "/tire/docs", "/tire/openapi.json", "/tire/redoc"])
def test_nobody_sees_anything_without_signing_in(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (401, 404)
    assert answer.json()["detail"] in ("Not authenticated", "Not Found")
    if path in PATHS:
        assert answer.status_code == 401


def test_every_route_asks_for_the_right_to_see_the_dag() -> None:
    for route in page.app.routes:
        assert page.may_see in [d.call for d in route.dependant.dependencies]  # type: ignore[attr-defined]


def test_a_card_is_shown_so_that_nothing_in_it_can_run(signed_in: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "model_card", lambda version: f"<script>alert({version})</script>")
    answer = signed_in.get("/tire/card/7")
    assert answer.text == "<script>alert(7)</script>"
    assert "; sandbox;" in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert signed_in.get("/tire/card/x").status_code == 422


@pytest.mark.parametrize(("error", "status"), [(InputError("secret"), 404), (ServiceUnavailable("secret"), 503)])
def test_what_cannot_be_shown_is_said_without_the_errors_words(
    signed_in: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def refuse(digest: str) -> str:
        raise error

    monkeypatch.setattr(steps, "data_report", refuse)
    answer = signed_in.get(f"/tire/data/{'0' * 64}")
    assert answer.status_code == status
    assert "secret" not in answer.text


def test_the_page_has_no_script_and_may_be_framed_by_airflow_alone(
    signed_in: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "overview_page", lambda: "<p>made by the step</p>")
    answer = signed_in.get("/tire/")
    assert answer.text == "<p>made by the step</p>"
    policy = answer.headers["content-security-policy"]
    assert "script-src" not in policy and "frame-ancestors 'self'" in policy


def test_loading_the_plugin_loads_neither_the_web_framework_nor_anything_heavy() -> None:
    ask = "import airflow.plugins_manager, json, sys; before = set(sys.modules); import tire_page; "
    ask += "print(json.dumps(sorted(set(sys.modules) - before)))"
    path = os.pathsep.join(p for p in sys.path if p)
    answer = subprocess.run(
        [sys.executable, "-c", ask], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout.splitlines()[-1]) == ["tire_page"]
