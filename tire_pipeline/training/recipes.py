"""What each candidate starts from; every field can be overridden. Light: the Airflow form reads it."""

from __future__ import annotations

import re
from typing import Any

NO_WEIGHTS = "none"
FINE_TUNING_RATE = 3e-4  # at most: pretrained filters are to be bent, not broken
_TIMM = re.compile(r"timm:[a-z0-9_]+(\.[a-z0-9_]+)?")


def _large(learning_rate: float, side: int = 224) -> dict[str, Any]:
    return {
        "epochs": 12,
        "batch_size": 32,
        "learning_rate": learning_rate,
        "image_height": side,
        "image_width": side,
    }


RECIPES: dict[str, dict[str, Any]] = {
    "cnn": {"epochs": 16, "image_height": 96, "image_width": 96},
    "tiny_vgg": {"epochs": 12, "image_height": 64, "image_width": 64},
    "resnet18": {"epochs": 4, "batch_size": 32, "learning_rate": 1e-3, "image_height": 64, "image_width": 64},
    "base_cnn": {"epochs": 20, "image_height": 64, "image_width": 64},
    # At the sizes their authors chose. VGG has no batch norm and ConvNeXt is made for small rates.
    "resnet34": _large(1e-3),
    "resnet50": _large(1e-3),
    "resnext50": _large(5e-4),
    "resnext101": _large(5e-4),
    "vgg19": _large(1e-4),
    "efficientnet_b0": _large(1e-3),
    "efficientnet_b1": _large(1e-3, 240),
    "efficientnet_b2": _large(1e-3, 288),
    "efficientnet_b3": _large(1e-3, 300),
    "efficientnet_b4": _large(1e-3, 380),
    "efficientnet_b5": _large(1e-3, 456),
    "convnext_tiny": _large(2e-4),
    "convnext_small": _large(2e-4),
    "convnext_base": _large(2e-4),
    "convnext_large": _large(2e-4),
}
FROM_SCRATCH = ("cnn", "tiny_vgg", "base_cnn")


def recipe(model_type: str, *, weights: str = NO_WEIGHTS) -> dict[str, Any]:
    """A candidate's own fields of the configuration; of an unknown one none."""
    fields = _large(5e-4) if is_timm(model_type) else RECIPES.get(model_type, {})
    if weights == NO_WEIGHTS:
        return fields
    return {**fields, "learning_rate": min(FINE_TUNING_RATE, fields.get("learning_rate", FINE_TUNING_RATE))}


def is_timm(model_type: object) -> bool:
    """Whether it is `timm:<name>`, with or without a tag. That timm knows it is checked when it is built."""
    return isinstance(model_type, str) and bool(_TIMM.fullmatch(model_type))
