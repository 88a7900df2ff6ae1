"""Trainings in containers, with a real Docker engine and the trainer image; skipped where there is none."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import FakeSlack, Running, draw, stack_of
from tire_pipeline import steps

IMAGE = "tire-trainer:latest"


def image_is_there() -> bool:
    try:
        found = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0


pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not image_is_there(), reason=f"needs a Docker engine and the image {IMAGE} (`make images`)"),
]


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
