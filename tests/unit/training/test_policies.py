from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tire_pipeline.training.augment import UNCOLOURED, colour
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.options import AUGMENTATIONS, UNAUGMENTED
from tire_pipeline.training.policies import NAMES, augment
from tire_pipeline.training.sheet import GAP, NUM_DRAWS, NUM_IMAGES, augmented, write_sheet

IMAGES_NHWC = np.random.default_rng(0).integers(0, 256, (8, 24, 32, 3), np.uint8)
X_BCHW = torch.from_numpy(IMAGES_NHWC).permute(0, 3, 1, 2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("policy", NAMES)
def test_a_policy_keeps_shape_and_kind_and_follows_its_generator_alone(policy: str) -> None:
    before = torch.random.get_rng_state()
    made = augment(X_BCHW, policy=policy, generator=generator())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert made.dtype == torch.uint8 and made.shape == X_BCHW.shape
    torch.rand(5)  # whatever the process drew before
    assert torch.equal(made, augment(X_BCHW, policy=policy, generator=generator()))
    assert not torch.equal(made, augment(X_BCHW, policy=policy, generator=generator(1)))


@pytest.mark.parametrize("policy", NAMES)
def test_each_image_of_a_batch_is_drawn_for_by_itself(policy: str) -> None:
    same_BCHW = X_BCHW[:1].expand(32, -1, -1, -1)
    made = augment(same_BCHW, policy=policy, generator=generator())
    assert len({image.numpy().tobytes() for image in made}) > 8


@pytest.mark.parametrize("policy", AUGMENTATIONS)
def test_every_policy_gives_float_images_in_range_and_leaves_its_input(policy: str) -> None:
    before = X_BCHW.clone()
    made = colour(X_BCHW, policy=policy, generator=generator())
    assert made.dtype == torch.float32 and made.shape == X_BCHW.shape
    assert made.min() >= 0 and made.max() <= 255
    assert torch.equal(X_BCHW, before)
    assert torch.equal(made, X_BCHW.float()) == (policy in UNCOLOURED)


@pytest.mark.parametrize("policy", AUGMENTATIONS)
def test_the_sheet_shows_images_beside_draws_of_them(policy: str, tmp_path: Path) -> None:
    config = TrainingConfig.of("cnn", augmentation=policy)
    rows = np.array([1, 3, 4, 5, 6, 7, 0])
    write_sheet(IMAGES_NHWC, rows, config, tmp_path)
    sheet = np.asarray(Image.open(io.BytesIO((tmp_path / "augmentation.png").read_bytes())))
    assert sheet.shape == (NUM_IMAGES * (24 + GAP) - GAP, (1 + NUM_DRAWS) * (32 + GAP) + GAP, 3)
    assert np.array_equal(sheet[:24, :32], IMAGES_NHWC[1])
    draws = [augmented(IMAGES_NHWC, rows, config, draw=d) for d in (0, 1)]
    assert np.array_equal(draws[0], draws[1]) == (policy in UNAUGMENTED)
    assert np.array_equal(draws[0], augmented(IMAGES_NHWC, rows, config, draw=0))
