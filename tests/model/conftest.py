"""A problem that a small network solves in seconds: grey noise, and grey noise with a dark bar."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tire_pipeline.training.loop import Examples


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """So that results do not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(num_images: int, *, seed: int = 0, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, side, side, 3) and labels (N,); class 1 has the bar."""
    rng = np.random.default_rng(seed)
    images_NHWC = rng.normal(128, 25, (num_images, side, side, 3)).clip(0, 255).astype(np.uint8)
    labels_N = np.arange(num_images) % 2
    for i in np.flatnonzero(labels_N):
        row = int(rng.integers(4, side - 8))
        images_NHWC[i, row : row + 4, 4 : side - 4] = 20
    return images_NHWC, labels_N.astype(np.int64)


@pytest.fixture(scope="session")
def examples() -> Examples:
    images_NHWC, labels_N = draw(96)
    rows = np.arange(96)
    return Examples(images_NHWC, labels_N, train=rows[:64], val=rows[64:], num_classes=2)
