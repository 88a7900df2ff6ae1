from __future__ import annotations

from typing import Any

import pytest

from tests.unit.fakes import evaluation, stored
from tire_pipeline import steps
from tire_pipeline.errors import GateRefused, InputError


def test_when_no_candidate_passed_each_ones_figure_is_said(fake: Any) -> None:
    failed = [
        evaluation("k1", value=0.6, passed=False),
        evaluation("k2", value=0.7, passed=False, candidate="resnet18"),
    ]
    with pytest.raises(GateRefused) as refused:
        steps.register(failed, run_key="r", services=fake)
    assert "cnn: balanced_accuracy 0.600, must reach 0.95; resnet18: balanced_accuracy 0.700" in str(refused.value)
    with pytest.raises(GateRefused, match="no candidate was evaluated"):
        steps.register([], run_key="r", services=fake)
    assert fake.tracking.made == []


def test_those_that_passed_are_registered_and_the_best_of_the_newest_snapshot_is_staged(fake: Any) -> None:
    found = [stored(fake, "k1"), evaluation("k2", passed=False), stored(fake, "k3", snapshot="s2")]
    models = steps.register(found, run_key="r", services=fake)
    assert [m.run_id for m in models] == ["run-k1", "run-k3"]
    fake.tracking.values = {"run-k1": {"test/log_loss": 0.1}, "run-k3": {"test/log_loss": 0.2}}
    fake.ledger.snapshots = [{"digest": "s1"}, {"digest": "s2"}]
    assert steps.stage("Loss", services=fake).run_id == "run-k3"
    assert steps.stage("Loss", snapshot_digest="s1", services=fake).run_id == "run-k1"


@pytest.mark.parametrize(
    ("file", "data", "said"),
    [("model.onnx", b"other", "model.onnx is damaged"), ("bundle.json", None, "It was overwritten")],
)
def test_what_is_stored_is_read_back_before_it_is_registered(
    fake: Any, file: str, data: bytes | None, said: str
) -> None:
    passed, other = stored(fake, "k1"), stored(fake, "k2", model=b"another model")
    for name in [file] if data else ["bundle.json", "model.onnx"]:
        fake.objects.put(f"runs/k1/bundle/{name}", data or fake.objects.get(f"runs/k2/bundle/{name}"))
    with pytest.raises(InputError, match=said):
        steps.register([passed, other], run_key="r", services=fake)
    assert fake.tracking.made == []


def test_an_unknown_metric_is_refused_before_any_service_is_asked(fake: Any) -> None:
    fake.tracking = fake.ledger = None
    for step in (steps.stage, steps.produce):
        with pytest.raises(InputError, match="'acc' is no metric"):
            step("acc", services=fake)
    with pytest.raises(InputError, match="'acc' is no metric"):
        steps.evaluate_run("r", metric="acc", services=fake)


def test_production_info_says_since_when_and_why(fake: Any) -> None:
    with pytest.raises(InputError, match=r"No model of tire-defect is in production yet. `tire produce METRIC`"):
        steps.production_info(services=fake)
    steps.register([stored(fake, "k1")], run_key="r", services=fake)
    fake.tracking.set_alias("production", 1)
    fake.tracking.values = {"run-k1": {"test/recall": 0.9, "val/loss": 0.3}}
    fake.ledger.locked = True
    fake.ledger.record_promotion(action="produced", model="tire-defect", to_version=1, reason="it is good", run_key="r")
    for _ in range(210):
        fake.ledger.record_promotion(action="refused", model="tire-defect", to_version=1, reason="no", run_key="r")
    info = steps.production_info(services=fake)
    assert (info["version"], info["candidate"], info["reason"]) == (1, "cnn", "it is good")
    assert info["since"] == "2026-01-01T00:00:00+00:00"
    assert info["metrics"] == {"test/recall": 0.9}
