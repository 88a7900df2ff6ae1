"""The story on docker-compose.yaml with a real engine and our images, S3 embedded. Many minutes long: `make chaos`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine import needs_image
from tire_pipeline.settings import Settings
from tire_pipeline.stack import demo
from tire_pipeline.stack.compose import REPOSITORY, Compose
from tire_pipeline.stack.ports import is_free

OURS = ["tire-airflow", "tire-mlflow", "tire-s3", "tire-serving", "tire-trainer"]


pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3000), needs_image(*OURS, how="`make images`")]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Compose]:
    """A stack of its own beside any other, removed with its volumes."""
    made = subprocess.run([sys.executable, str(REPOSITORY / "docker" / "make_env.py")], capture_output=True, check=True)
    text = made.stdout.decode().replace("COMPOSE_PROFILES=seaweedfs", "COMPOSE_PROFILES=embedded")
    ports = iter(port for port in range(28100, 28200) if is_free(port))
    text = re.sub(r"^(\w+_PORT)=.*$", lambda m: f"{m.group(1)}={next(ports)}", text, flags=re.MULTILINE)
    env_file = tmp_path / "test.env"
    env_file.write_text(f"{text}\nCOMPOSE_PROJECT_NAME=tire-test\n")
    stage = Compose(Settings(_env_file=None, home=tmp_path / "home"), env_file=env_file)  # type: ignore[call-arg]
    yield stage
    stage._compose("down", "--volumes", "--timeout", "10")


def test_a_model_is_promoted_and_no_secret_is_said(stage: Compose) -> None:
    said: list[str] = []
    told = demo.run(stage, num_images=600, seed=0, shuffle_labels=False, leave=False, say=said.append)
    assert told.promoted, told.decision
    assert {row["candidate"] for row in told.leaderboard} == {"resnet18", "cnn", "tiny_vgg"}
    assert all("label" in answer for answer in told.answers)
    left = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter", "label=tire.deployment=tire-test"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not left.stdout.strip()
    logs = stage._compose("logs", "--no-color").stdout
    assert "train_and_promote" in logs
    secrets = re.findall(r"^\w+(?:PASSWORD|KEY|SECRET)\w*=(\S{16,})$", stage.env_file.read_text(), flags=re.MULTILINE)
    assert len(secrets) >= 9
    assert not [secret for secret in secrets if secret in logs]
