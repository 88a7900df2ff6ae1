"""Loading is light where it must be, which lint-imports can't see: it judges what is written, not what is loaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "torchvision",
    "mlflow",
    "great_expectations",
    "pandas",
    "pyarrow",
    "boto3",
    "botocore",
    "numpy",
    "scipy",
    "sklearn",
    "cv2",
    "onnx",
    "onnxruntime",
    "sqlalchemy",
    "matplotlib",
    "fastapi",
    "httpx",
}
PROBE = "import json, sys; import {module}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"


def loaded(module: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module)], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["tire_pipeline", "tire_pipeline.steps", "tire_pipeline.refs", "tire_pipeline.cli"])
def test_the_doors_load_nothing_heavy(module: str) -> None:
    assert loaded(module) & HEAVY == set()


def test_the_trigger_form_is_built_without_anything_heavy() -> None:
    assert loaded("tire_pipeline.training.config") & HEAVY == set()


def test_answers_need_neither_torch_nor_mlflow() -> None:
    both = loaded("tire_pipeline.evaluation.answers") | loaded("tire_pipeline.bundle")
    assert both & {"torch", "torchvision", "mlflow", "great_expectations"} == set()
