from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from tests.unit.serving.test_alias import DIGEST, FakeMlflow, mlflow, version  # noqa: F401  (a fixture)
from tire_pipeline.serving.alias import alias_target
from tire_pipeline.settings import Settings
from tire_pipeline.wiring import services


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "127.0.0.1,localhost"), ("intranet, localhost", "intranet,localhost,127.0.0.1"), ("*", "*")],
)
def test_no_proxy_is_asked_for_what_runs_on_this_host(
    mlflow: FakeMlflow,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    before: str,
    after: str,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, before)
    monkeypatch.setattr("urllib.request._opener", None)  # it remembers the proxies of its first request
    services(Settings(home=tmp_path, _env_file=None))  # type: ignore[call-arg]
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == after
    mlflow.say(200, version(**{"tire.bundle": "runs/k/bundle/", "tire.bundle_digest": DIGEST}))
    assert alias_target(mlflow.url, "my-project", alias="production")
    assert httpx.get(mlflow.url).status_code == 200
