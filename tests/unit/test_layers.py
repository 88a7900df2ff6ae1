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
STEP_PROBE = """
import json, sys
from tire_pipeline import steps, wiring

def services():
    print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))
    sys.exit()

wiring.services = services
steps.{call}
"""


def loaded(module: str) -> set[str]:
    return said(PROBE.format(module=module))


def said(script: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["tire_pipeline", "tire_pipeline.steps", "tire_pipeline.refs", "tire_pipeline.cli"])
def test_the_doors_load_nothing_heavy(module: str) -> None:
    assert loaded(module) & HEAVY == set()


@pytest.mark.parametrize("call", ["plan_scan('v1')", "scan(None)", "validate('v1')", "split(None)"])
def test_a_step_that_reads_indexes_loads_nothing_heavy_before_the_services_have_quieted_it(call: str) -> None:
    assert said(STEP_PROBE.format(call=call)) & HEAVY == set()


def test_the_trigger_form_is_built_without_anything_heavy() -> None:
    assert loaded("tire_pipeline.training.config") & HEAVY == set()


def test_answers_need_neither_torch_nor_mlflow() -> None:
    both = loaded("tire_pipeline.evaluation.answers") | loaded("tire_pipeline.bundle")
    assert both & {"torch", "torchvision", "mlflow", "great_expectations"} == set()
