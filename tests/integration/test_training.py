"""Trainings as people start them, against real stores: stopped, resumed elsewhere, served from the cache, searched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_chain import draw
from tire_pipeline import steps
from tire_pipeline.settings import Settings
from tire_pipeline.wiring import Services

CONFIG = """
dataset_version = "v1"
model_type = "cnn"
epochs = 500
image_height = 32
image_width = 32
threads = 1
"""


def environment(settings: Settings) -> dict[str, str]:
    """The settings as a command finds them."""
    plain = {"home", "project", "bucket", "s3_endpoint_url", "s3_region", "mlflow_url"}
    found = {f"TIRE_{name.upper()}": str(getattr(settings, name)) for name in plain}
    for name in ("s3_access_key_id", "s3_secret_access_key", "ledger_url"):
        found[f"TIRE_{name.upper()}"] = getattr(settings, name).get_secret_value()
    return {**os.environ, **found, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def tire(services: Services, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tire_pipeline", "--verbose", *arguments]
    return subprocess.Popen(
        command, env=environment(services.settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stop_in_training(process: subprocess.Popen[str]) -> tuple[int, str, float]:
    """Send SIGTERM once an epoch is done; the exit code, what was said, and the seconds that it took."""
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "epoch 2 of" in line:
            break
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    _, rest = process.communicate(timeout=60)
    return process.returncode, "".join(lines) + rest, time.monotonic() - asked


@pytest.mark.timeout(300)
def test_a_training_that_is_told_to_stop_goes_on_from_s3_where_its_disk_is_gone(live: Services, tmp_path: Path) -> None:
    steps.push(draw(tmp_path / "a", per_class=40), version="v1", services=live)
    (tmp_path / "config.toml").write_text(CONFIG)
    given = ["train", "--config", str(tmp_path / "config.toml"), "--resume", "--json"]
    code, said, seconds = stop_in_training(tire(live, *given))
    assert code == 130, said
    assert "not in the cache: no earlier training of this candidate" in said
    assert "SIGTERM stopped the training of cnn in epoch" in said
    assert "epoch 1 of 500" in said  # the file's, not the recipe's
    assert seconds < 30  # most of it is what a busy machine takes; `tests/model/test_adversity.py` asks for 3
    shutil.rmtree(live.settings.home / "checkpoints")

    code, said, _ = stop_in_training(tire(live, *given))
    assert code == 130, said
    assert "going on from checkpoint epoch-" in said


@pytest.mark.timeout(300)
def test_the_same_again_comes_from_the_cache_and_another_says_what_differs(live: Services, tmp_path: Path) -> None:
    steps.push(draw(tmp_path / "a", per_class=40), version="v1", services=live)
    made = steps.split(steps.validate("v1", services=live), services=live)

    def train(**fields: Any) -> Any:
        form = {"dataset_version": "v1", "candidates": ["cnn"], "image_height": 32, "image_width": 32, **fields}
        return steps.train(steps.training_specs(made, steps.check_request(form))[0], services=live)

    first, again, other = train(epochs=1), train(epochs=1), train(epochs=2, ema_decay=0.5)
    assert (first.cached, again.cached, other.cached) == (False, True, False)
    assert again.bundle_digest == first.bundle_digest
    tags = live.tracking.tags(other.run_id)
    assert tags["tire.cache_miss"] == "config.ema_decay: 0.5, was 0.0; config.epochs: 2, was 1"
    assert tags["tire.device"].startswith(("cpu (no GPU is here), fp32", "cuda"))
    assert json.loads(tags["tire.packages"])["torch"]
    assert not list((live.settings.home / "checkpoints").glob("*/epoch-*"))
    kept = {name for name in live.tracking.metrics(other.run_id) if name.startswith("kept/")}
    assert {"kept/loss", "kept/balanced_accuracy"} <= kept


SPACE = {
    "model_type": "cnn",
    "fixed": {"epochs": 40, "image_height": 32, "image_width": 32, "threads": 1, "monitor": "accuracy"},
    "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
}


@pytest.mark.timeout(300)
def test_a_search_that_is_stopped_goes_on_with_the_trial_it_was_at(live: Services, tmp_path: Path) -> None:
    steps.push(draw(tmp_path / "a", per_class=40), version="v1", services=live)
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    given = ["tune", "--dataset-version", "v1", "--space", str(tmp_path / "space.json"), "--trials", "2", "--json"]
    code, said, _ = stop_in_training(tire(live, *given))
    assert code == 130, said
    process = tire(live, *given)
    out, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "going on from checkpoint epoch-" in said
    found = json.loads(out)
    assert (found["num_complete"], found["num_pruned"], found["num_failed"]) == (2, 0, 0)
    assert found["metric"] == "accuracy"
    assert 1e-4 <= found["best_config"]["learning_rate"] <= 1e-2
    assert live.tracking.tags(found["best_run_id"])["mlflow.parentRunId"] == found["run_id"]
    assert live.tracking.metrics(found["run_id"])["best/accuracy"] == found["best_value"]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_search_in_two_processes_survives_the_death_of_one(live: Services, tmp_path: Path) -> None:
    steps.push(draw(tmp_path / "a", per_class=40), version="v1", services=live)
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    given = ["tune", "--dataset-version", "v1", "--space", str(tmp_path / "space.json"), "--trials", "6"]
    process = tire(live, *given, "--parallel", "2", "--json")
    assert process.stderr
    for line in process.stderr:
        if "epoch 1 of" in line:
            break
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(workers.stdout.split()[0]), signal.SIGKILL)
    out, said = process.communicate(timeout=500)
    assert process.returncode == 0, said
    found = json.loads(out)
    assert found["num_complete"] + found["num_pruned"] == 6
    assert found["num_failed"] == 0
