"""Trainings in containers, with a real Docker engine and the trainer image; skipped where there is none."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import FakeSlack, Running, draw, stack_of
from tests.e2e.engine import needs_image
from tire_pipeline import steps

IMAGE = "tire-trainer:latest"
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), needs_image(IMAGE, how="`make images`")]


def open_to_the_image(root: Path) -> None:
    """Its user is nobody on this host: it may read what is below `root`, and write where SageMaker lets it."""
    root.chmod(0o755)
    for folder in ("model", "output"):
        (root / folder).mkdir()
        (root / folder).chmod(0o777)


def test_the_image_trains_by_sagemakers_contract_without_a_network(tmp_path: Path) -> None:
    """As SageMaker starts it: `train`, folders below /opt/ml, and nothing else."""
    data = tmp_path / "input" / "data"
    draw(data / "train", per_class=60)
    draw(data / "eval", seed=1, per_class=10)
    hyperparameters = {
        "model_type": "tiny_vgg",
        "epochs": "4",
        "image_height": "64",
        "image_width": "64",
        "threads": "2",
    }
    (tmp_path / "input" / "config").mkdir()
    (tmp_path / "input" / "config" / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    open_to_the_image(tmp_path)
    command = ["docker", "run", "--rm", "--network", "none", "--cap-drop", "ALL", "--volume", f"{tmp_path}:/opt/ml"]
    done = subprocess.run([*command, IMAGE, "train"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((tmp_path / "output" / "data" / "evaluation.json").read_text())
    assert evaluation["num_images"] == 20
    assert evaluation["metrics"]["balanced_accuracy"] > 0.7
    bundle = json.loads((tmp_path / "model" / "bundle.json").read_text())
    assert sorted(bundle["classes"]) == ["defective", "good"]


def test_a_refusal_is_written_where_sagemakers_console_shows_it(tmp_path: Path) -> None:
    (tmp_path / "input" / "config").mkdir(parents=True)
    (tmp_path / "input" / "config" / "hyperparameters.json").write_text("{}")
    open_to_the_image(tmp_path)
    command = ["docker", "run", "--rm", "--network", "none", "--volume", f"{tmp_path}:/opt/ml", IMAGE, "train"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    assert "SM_CHANNEL_TRAIN" in (tmp_path / "output" / "failure").read_text()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, slack: FakeSlack) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("docker") / "home"
    with stack_of(home, {**os.environ, "TIRE_TRAINER": "docker", "TIRE_TRAINER_NETWORK": "host"}, slack) as running:
        yield running


def test_candidates_train_in_containers_and_one_is_promoted(running: Running, tmp_path: Path) -> None:
    summary = steps.push(draw(tmp_path / "a"), version="v1", services=running.live)
    record = running.finished(f"dataset__v1__{summary.marker}", timeout_s=800)
    assert record["state"] == "success", record["note"]
    assert steps.production_info(services=running.live) is not None
    secret = running.live.settings.s3_secret_access_key
    assert secret is not None
    logs = "".join(p.read_text(errors="replace") for p in (running.home / "airflow" / "logs").rglob("*.log"))
    assert "tire_pipeline.training.loop" in logs  # what the container said is in the task's log
    assert secret.get_secret_value() not in logs
    left = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter", f"ancestor={IMAGE}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not left.stdout.strip()
