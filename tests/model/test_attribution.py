"""Maps of where a network looked, on pictures where one knows where there is something to see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.model.conftest import draw
from tire_pipeline.evaluation.attribution import attribution, overlay
from tire_pipeline.imaging import Preprocessing, normalise
from tire_pipeline.models import build

SPEC = Preprocessing(32, 32)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network that tells a bar from none."""
    images_NHWC, labels_N = draw(96)
    x_NCHW, y_N = torch.from_numpy(normalise(images_NHWC, SPEC)), torch.from_numpy(labels_N)
    model = build("cnn", num_classes=2, seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(15):
        for rows in torch.randperm(96, generator=generator).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x_NCHW[rows]), y_N[rows]).backward()
            optimizer.step()
    return model.eval()


def barred(num_images: int = 16) -> tuple[np.ndarray, np.ndarray]:
    images_BHWC, labels_B = draw(num_images * 2, seed=9)
    return images_BHWC[labels_B == 1], np.ones(num_images, np.int64)


def share_on_bar(maps_BHW: np.ndarray, images_BHWC: np.ndarray) -> float:
    """The share of the maps' weight that lies within three pixels of the dark bar."""
    shares = []
    for m, pixels in zip(maps_BHW, images_BHWC, strict=True):
        rows = np.flatnonzero(pixels[:, 8:24].mean(axis=(1, 2)) < 60)
        shares.append(m[max(rows.min() - 3, 0) : rows.max() + 4].sum() / max(m.sum(), 1e-9))
    return float(np.mean(shares))


def test_the_maps_lie_where_the_bar_is_and_go_elsewhere_when_the_weights_are_random(trained: nn.Module) -> None:
    images_BHWC, targets_B = barred()
    maps_BHW = attribution(trained, images_BHWC, targets_B, SPEC)
    assert maps_BHW.shape == (16, 32, 32)
    assert (maps_BHW.min(), maps_BHW.max()) == (pytest.approx(0.0, abs=1e-3), 1.0)
    random = [p.detach().clone() for p in trained.parameters()]
    torch.manual_seed(1)
    try:
        with torch.no_grad():
            for p in trained.parameters():
                p.copy_(p[torch.randperm(len(p))] if p.dim() == 1 else torch.randn_like(p) * p.std())
        other_BHW = attribution(trained, images_BHWC, targets_B, SPEC)
    finally:
        with torch.no_grad():
            for p, before in zip(trained.parameters(), random, strict=True):
                p.copy_(before)
    alike = np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(maps_BHW, other_BHW, strict=True)])
    assert alike < 0.6
    assert share_on_bar(maps_BHW, images_BHWC) > share_on_bar(other_BHW, images_BHWC) + 0.1


def test_an_overlay_is_red_where_the_map_is_strong_and_grey_where_it_is_not() -> None:
    pixels = np.full((4, 4, 3), 100, np.uint8)
    strength = np.zeros((4, 4), np.float32)
    strength[0, 0] = 1.0
    shown = overlay(pixels, strength)
    assert (shown[3, 3] == 100).all()
    assert shown[0, 0, 0] > 180 > 80 > shown[0, 0, 2]
