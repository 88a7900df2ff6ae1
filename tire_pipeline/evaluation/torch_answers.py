"""The answers of the network that was trained, before it became an ONNX model."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tire_pipeline.bundle import Bundle, softmax
from tire_pipeline.datasets.cache import Images
from tire_pipeline.imaging import normalise
from tire_pipeline.metrics import Floats

BATCH = 64


def torch_probabilities(model: nn.Module, bundle: Bundle, images_NHWC: Images, positions: np.ndarray) -> Floats:
    """Calibrated probabilities (N, K) by torch; compare `answers.probabilities`, which are onnxruntime's."""
    parts = []
    with torch.inference_mode():
        for part in (positions[i : i + BATCH] for i in range(0, len(positions), BATCH)):
            x_BCHW = torch.from_numpy(normalise(np.asarray(images_NHWC[part]), bundle.preprocessing))
            parts.append(softmax(model(x_BCHW).numpy() / np.float32(bundle.temperature)))
    return np.concatenate(parts)
