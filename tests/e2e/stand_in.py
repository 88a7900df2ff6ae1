"""An image that obeys the trainer's contract and only waits, and what of it is on the engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

BASE = "python:3.11-slim-bookworm"
IMAGE = "tire-stand-in-trainer:latest"
HERE = Path(__file__).parent


def build() -> None:
    dockerfile = f'FROM {BASE}\nCOPY stand_in_trainer.py /\nENTRYPOINT ["python3", "/stand_in_trainer.py"]\n'
    command = ["docker", "build", "--quiet", "--tag", IMAGE, "--file", "-", str(HERE)]
    subprocess.run(command, input=dockerfile.encode(), check=True, capture_output=True)


def names(run_id: str, *, everything: bool = False) -> list[str]:
    """Names of the stand-in's containers that run (or are there), of one Airflow run or of all."""
    command = ["docker", "ps", "--format", "{{.Names}}", "--filter", f"ancestor={IMAGE}"]
    command += ["--filter", f"label=tire.run_id={run_id}"] if run_id else []
    command += ["--all"] if everything else []
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def running() -> list[tuple[str, str]]:
    """Name and id of every stand-in that runs."""
    command = ["docker", "ps", "--format", "{{.Names}} {{.ID}}", "--filter", f"ancestor={IMAGE}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [(line.split()[0], line.split()[1]) for line in lines]
