"""MLflow's REST answers, as its server words them, read without its package."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.serving.alias import alias_target
from tire_pipeline.serving.bundles import Target

DIGEST = "ab" * 32


class FakeMlflow(ThreadingHTTPServer):
    """Gives one answer to everything and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body, self.asked = 200, b"{}", ""
        self.url = f"http://127.0.0.1:{self.server_port}"

    def say(self, status: int, record: Any) -> None:
        self.status, self.body = status, json.dumps(record).encode()


class _Handler(BaseHTTPRequestHandler):
    server: FakeMlflow

    def do_GET(self) -> None:
        self.server.asked = self.path
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def mlflow() -> Iterator[FakeMlflow]:
    with FakeMlflow() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def version(**tags: str) -> dict[str, Any]:
    return {"model_version": {"version": "7", "tags": [{"key": k, "value": v} for k, v in tags.items()]}}


def test_the_version_behind_the_alias_names_its_bundle(mlflow: FakeMlflow) -> None:
    mlflow.say(200, version(**{"tire.bundle": "runs/k/bundle/", "tire.bundle_digest": DIGEST}))
    assert alias_target(mlflow.url + "/", "my-project", alias="production") == Target(7, DIGEST, "runs/k/bundle/")
    assert mlflow.asked == "/api/2.0/mlflow/registered-models/alias?name=my-project&alias=production"


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RESOURCE_DOES_NOT_EXIST", "Registered Model with name=tire-defect not found"),
        (400, "INVALID_PARAMETER_VALUE", "Registered model alias production not found."),
    ],
)
def test_no_model_and_no_alias_both_mean_that_nothing_is_promoted(
    mlflow: FakeMlflow, status: int, code: str, message: str
) -> None:
    mlflow.say(status, {"error_code": code, "message": message})
    assert alias_target(mlflow.url, "tire-defect", alias="production") is None


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_any_other_refusal_is_trouble_and_not_an_empty_registry(mlflow: FakeMlflow, status: int) -> None:
    mlflow.say(status, {"error_code": "SOMETHING_ELSE", "message": "no"})
    with pytest.raises(ServiceUnavailable, match=str(status)):
        alias_target(mlflow.url, "tire-defect", alias="production")


def test_a_page_of_something_else_is_trouble(mlflow: FakeMlflow) -> None:
    mlflow.status, mlflow.body = 404, b"<html>"
    with pytest.raises(ServiceUnavailable):
        alias_target(mlflow.url, "tire-defect", alias="production")
    mlflow.status = 200
    with pytest.raises(ServiceUnavailable, match="did not answer"):
        alias_target(mlflow.url, "tire-defect", alias="production")


def test_a_version_without_bundle_tags_is_named(mlflow: FakeMlflow) -> None:
    mlflow.say(200, version(**{"tire.bundle": "runs/k/bundle/", "tire.bundle_digest": "../../etc"}))
    with pytest.raises(InputError, match=r"Version 7 of tire-defect has no tags"):
        alias_target(mlflow.url, "tire-defect", alias="production")


def test_a_server_that_is_not_there_is_trouble() -> None:
    with pytest.raises(ServiceUnavailable, match="TIRE_MLFLOW_URL"):
        alias_target("http://127.0.0.1:9", "tire-defect", alias="production")
