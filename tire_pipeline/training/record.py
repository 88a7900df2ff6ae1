"""What a training leaves in MLflow: all that is needed to understand it, and to repeat it."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlflow.onnx
import onnx
import torch

from tire_pipeline.bundle import MODEL, Bundle
from tire_pipeline.errors import Interrupted
from tire_pipeline.stores.tracking import Tracking
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.device import choose
from tire_pipeline.training.options import OPTIONS

# Whose version may change a weight or an answer.
PACKAGES = (
    *("torch", "torchvision", "timm", "accelerate", "numpy", "scipy", "scikit-learn", "opencv-python-headless"),
    *("pillow", "simplejpeg", "safetensors", "onnx", "onnxruntime", "tire-pipeline"),
)


@contextmanager
def tracked_run(tracking: Tracking, config: TrainingConfig, tags: Mapping[str, str]) -> Iterator[str]:
    """An open MLflow run that ends as FINISHED, as KILLED when it was told to stop, or as FAILED."""
    run_id = tracking.start_run(config.model_type, params=config.as_dict(), tags={**surroundings(config), **tags})
    try:
        yield run_id
    except BaseException as error:
        tracking.end_run(run_id, status="KILLED" if isinstance(error, Interrupted) else "FAILED")
        raise
    tracking.end_run(run_id)


def surroundings(config: TrainingConfig) -> dict[str, str]:
    """Tags that say where a training runs: device and precision with the reason, packages, machine."""
    gpu = f", {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if torch.cuda.is_available() else ""
    return {
        "tire.device": choose(config).reason + gpu,
        "tire.packages": json.dumps(packages()),
        "tire.machine": f"Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores",
    }


def packages() -> dict[str, str]:
    """The versions of the installed ones of PACKAGES."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_config(config: TrainingConfig, dataset_version: str, folder: Path) -> None:
    """`config.json`, with which `tire train --config` trains the same again."""
    asked_for = {k: v for k, v in config.as_dict().items() if k in {"model_type", *OPTIONS} and v is not None}
    given: dict[str, Any] = {"dataset_version": dataset_version, **asked_for}
    (folder / "config.json").write_text(json.dumps(given, indent=1))


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """The bundle, and its model in MLflow's onnx flavour, which needs no pickle to be loaded."""
    shutil.copytree(bundle.path, folder / "bundle", ignore=shutil.ignore_patterns(MODEL))
    model = onnx.load(str(bundle.path / MODEL))
    mlflow.onnx.save_model(
        model, str(folder / "model"), pip_requirements=["onnxruntime"], metadata={"bundle_digest": bundle.digest}
    )
