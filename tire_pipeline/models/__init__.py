"""The networks a candidate can be. Each takes normalised images (B, 3, H, W) and gives logits (B, K)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tire_pipeline.models.plain import cnn, tiny_vgg

BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "cnn": cnn,
    "tiny_vgg": tiny_vgg,
    "resnet18": lambda num_classes: _torchvision("resnet18", num_classes),
}


def build(model_type: str, *, num_classes: int, seed: int) -> nn.Module:
    """A freshly initialised network; the same seed gives the same weights. `model_type` is a key of `BUILDERS`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BUILDERS[model_type](num_classes)


def _torchvision(name: str, num_classes: int) -> nn.Module:
    from torchvision import models  # noqa: PLC0415  (two seconds that the small networks need not wait)

    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    return model
