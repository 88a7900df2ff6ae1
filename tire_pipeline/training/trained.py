"""The network of a bundle in torch again, with the weights that were trained."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from tire_pipeline.bundle import Bundle
from tire_pipeline.several_labels import membership
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.network import rebuild_network

WEIGHTS = "model.safetensors"
CONFIG = "training.json"


def save_network(model: nn.Module, config: TrainingConfig, folder: Path) -> None:
    """Write what `trained_network` needs: the weights, and the configuration that says whose they are."""
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(asdict(config), sort_keys=True, indent=1), encoding="utf-8")


def has_network(bundle: Bundle) -> bool:
    """Whether the bundle holds its network for torch; INT8 has none."""
    return (bundle.path / CONFIG).is_file()


def trained_network(bundle: Bundle) -> nn.Module:
    """The network that the bundle's ONNX model was written from, ready to answer."""
    config = TrainingConfig(**json.loads((bundle.path / CONFIG).read_text(encoding="utf-8")))
    model = rebuild_network(config, num_classes=len(bundle.classes), membership_KV=membership(bundle.classes))
    model.load_state_dict(load_file(bundle.path / WEIGHTS))
    return model.eval()
