"""A bundle's network in torch again, with the weights that were trained."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from tire_pipeline.bundle import Bundle, softmax
from tire_pipeline.datasets.cache import Images
from tire_pipeline.imaging import normalise
from tire_pipeline.metrics import Floats
from tire_pipeline.models import build

WEIGHTS = "model.safetensors"
BATCH = 64


def network(bundle: Bundle) -> nn.Module:
    """The network that the bundle's ONNX model was written from, ready to answer."""
    model = build(bundle.candidate, num_classes=len(bundle.classes), seed=0)
    model.load_state_dict(load_file(bundle.path / WEIGHTS))
    return model.eval()


def torch_probabilities(bundle: Bundle, images_NHWC: Images, positions: np.ndarray) -> Floats:
    """Calibrated probabilities (N, K) by torch; compare `answers.probabilities`, which are onnxruntime's."""
    model, parts = network(bundle), []
    with torch.inference_mode():
        for part in (positions[i : i + BATCH] for i in range(0, len(positions), BATCH)):
            x_BCHW = torch.from_numpy(normalise(np.asarray(images_NHWC[part]), bundle.preprocessing))
            parts.append(softmax(model(x_BCHW).numpy() / np.float32(bundle.temperature)))
    return np.concatenate(parts)
