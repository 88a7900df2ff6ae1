"""Requests nobody thought of, made from the server's own description (schemathesis): none is the server's fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from tire_pipeline.bundle import Bundle
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.capture import Capture
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import ModelSlot, load_model
from tire_pipeline.serving.spool import Spool

EXAMPLES = 12


class Ledger:
    """Takes everything."""

    def record_predictions(self, rows: Sequence[dict[str, Any]]) -> None: ...
    def record_feedback(self, prediction_id: str, label: str, source: str) -> None: ...


@pytest.fixture
def api(make_bundle: Callable[..., Bundle], serve: Callable[..., httpx.Client], tmp_path: Path) -> Any:
    metrics = ServingMetrics()
    slot = ModelSlot("tire-defect", metrics)
    slot.swap(load_model(make_bundle(size=2).path))
    capture = Capture(Ledger(), Spool(tmp_path / "spool"), metrics=metrics)
    client = serve(create_app(slot, metrics=metrics, capture=capture))
    return schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")


def test_no_request_is_the_servers_fault(api: Any) -> None:
    tried = Counter[str]()

    def ask(case: Any) -> None:
        if case.path_parameters and "name" in case.path_parameters and tried[case.path] % 5:
            case.path_parameters["name"] = "tire-defect"  # any other is a 404, which is seen often enough
        tried[case.path] += 1
        case.call_and_validate(checks=[not_a_server_error, response_schema_conformance])

    relaxed = settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    for operation in api.get_all_operations():
        relaxed(given(case=operation.ok().as_strategy())(ask))()
    assert {"/predict", "/explain", "/feedback", "/v2/models/{name}/infer", "/metrics"} <= set(tried)
    assert sum(tried.values()) > 5 * len(tried)
