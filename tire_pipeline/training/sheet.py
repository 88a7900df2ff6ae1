"""A picture of what a training sees: whoever looks at it knows whether the label survives the augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tire_pipeline.datasets.cache import Images
from tire_pipeline.imaging import Pixels, encode_png
from tire_pipeline.metrics import Ints
from tire_pipeline.training.augment import colour, draw_moves
from tire_pipeline.training.batches import draw_boxes, load, seed_of
from tire_pipeline.training.config import TrainingConfig

NUM_IMAGES = 6
NUM_DRAWS = 7
GAP = 4


def write_sheet(images_NHWC: Images, rows: Ints, config: TrainingConfig, folder: Path) -> None:
    """augmentation.png: in each row an image as it is, then seven draws of it. The images are spread over `rows`."""
    shown = rows[np.linspace(0, len(rows) - 1, min(NUM_IMAGES, len(rows))).astype(int)]
    as_it_is = np.ascontiguousarray(images_NHWC[shown])
    drawn = [augmented(images_NHWC, shown, config, draw=draw) for draw in range(NUM_DRAWS)]
    (folder / "augmentation.png").write_bytes(encode_png(tile([as_it_is, *drawn])))


def augmented(images_NHWC: Images, rows: Ints, config: TrainingConfig, *, draw: int) -> Pixels:
    """The rows as training might show them, (len(rows), H, W, 3)."""
    generator = torch.Generator().manual_seed(seed_of(config.seed, draw, "sheet"))
    height, width = images_NHWC.shape[1:3]
    boxes = None
    if config.augmentation == "crop":
        boxes = [draw_boxes(len(rows), height=height, width=width, generator=generator)]
    moves = draw_moves(len(rows), policy=config.augmentation, height=height, width=width, generator=generator)
    (x_BCHW,) = load(images_NHWC, [rows], boxes=boxes, moves=[moves])
    made_BCHW = colour(x_BCHW, policy=config.augmentation, generator=generator)
    return made_BCHW.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def tile(columns: list[Pixels]) -> Pixels:
    """One picture of columns of images (R, H, W, 3), on white; the first column stands a little apart."""
    num_rows, height, width, _ = columns[0].shape
    sheet = np.full((num_rows * (height + GAP) - GAP, len(columns) * (width + GAP) + GAP, 3), 255, np.uint8)
    for c, images_RHWC in enumerate(columns):
        left = c * (width + GAP) + (2 * GAP if c else 0)
        for r, image_HWC in enumerate(images_RHWC):
            top = r * (height + GAP)
            sheet[top : top + height, left : left + width] = image_HWC
    return sheet
