from __future__ import annotations

import numpy as np
import pytest
import torch

from tire_pipeline.bundle import softmax
from tire_pipeline.training.augment import colour
from tire_pipeline.training.export import fit_temperature


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_logits_is_found(true_temperature: float) -> None:
    rng = np.random.default_rng(0)
    z_NK = rng.normal(0, 2, (20_000, 3))
    y_N = (rng.random((20_000, 1)) > softmax(z_NK).cumsum(axis=1)).sum(axis=1).clip(max=2)
    assert fit_temperature(z_NK * true_temperature, y_N) == pytest.approx(true_temperature, rel=0.05)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_augmentation_keeps_shape_and_range_and_follows_its_generator(size: tuple[int, int]) -> None:
    x_BCHW = torch.rand(6, 3, *size, generator=torch.Generator().manual_seed(1)) * 255
    first, again, other = (
        colour(x_BCHW, policy="light", generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )
    assert first.shape == x_BCHW.shape
    assert first.min() >= 0
    assert first.max() <= 255
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, x_BCHW)
    assert torch.equal(colour(x_BCHW, policy="none", generator=torch.Generator()), x_BCHW)
