"""Augmentation: where an image's pixels go is decided and done as it is read, in uint8, by the thread that reads ahead
(`batches.load`); its colours change on whole batches on the device that trains, and float comes last.

What a tyre on a belt does before a camera, with no effect on its label: `light` flips both ways, turns by a quarter,
shifts by up to 8 % with reflected borders, and scales brightness and contrast by up to 20 %. `crop` does all of it but
the shift: its images are cut (`batches.draw_boxes`). `flips` only flips. `none` and `base` change nothing. The policies
of torchvision (`policies`) work on whole batches too; all of them but `custom` flip and turn first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tire_pipeline.imaging import IMAGENET_MEAN, IMAGENET_STD, Pixels, Triple
from tire_pipeline.training.options import UNAUGMENTED

SHIFT_FRACTION = 0.08
SCALED = ("light", "crop")
UNCOLOURED = (*UNAUGMENTED, "flips")


def draw_moves(
    num_images: int, *, policy: str, height: int, width: int, generator: torch.Generator
) -> npt.NDArray[np.int64] | None:
    """How to move each image: (N, 5) of mirrored, upended, turned (0 or 1), pixels down, pixels right. None where none
    is moved.

    Only square images are turned: what is turned keeps its size.
    """
    if policy in (*UNAUGMENTED, "custom"):
        return None
    moves_N5 = np.zeros((num_images, 5), np.int64)
    moves_N5[:, :3] = (torch.rand(num_images, 3, generator=generator) < 0.5).numpy()
    if height != width or policy == "flips":
        moves_N5[:, 2] = 0
    if policy == "light":
        for column, side in ((3, height), (4, width)):
            most = max(1, round(SHIFT_FRACTION * side))
            moves_N5[:, column] = torch.randint(-most, most + 1, (num_images,), generator=generator).numpy()
    return moves_N5


def move(image_HWC: Pixels, move_5: Sequence[int], out_HWC: Pixels) -> None:
    """Write the image to `out_HWC`, of the same size: turned, then flipped, then shifted by less than half a side.

    A turn is a transposition: with the flips it makes all eight ways to lay a square. What comes in at the border is
    its reflection, without the outermost row itself. Every pixel is written once: flips go straight to their place
    (OpenCV flips into a part of an array), and borders are flipped from what lies there.
    """
    mirrored, upended, turned, down, right = move_5
    if turned:
        image_HWC = cast("Pixels", cv2.transpose(image_HWC))
    height, width = image_HWC.shape[:2]
    rows, kept_rows = _shift(down, height, upended)
    columns, kept_columns = _shift(right, width, mirrored)
    _flip(image_HWC[kept_rows, kept_columns], mirrored, upended, out_HWC[rows, columns])
    if right:
        border, inside = _reflection(right, width)
        _flip(out_HWC[rows, inside], 1, 0, out_HWC[rows, border])
    if down:
        border, inside = _reflection(down, height)
        _flip(out_HWC[inside], 0, 1, out_HWC[border])


def _shift(by: int, side: int, flipped: int) -> tuple[slice, slice]:
    """Along one axis, where to write what stays in the picture when it is shifted, and where that lay."""
    there = slice(max(0, by), side + min(0, by))
    kept = slice(max(0, -by), side - max(0, by))
    return there, slice(side - kept.stop, side - kept.start) if flipped else kept


def _reflection(by: int, side: int) -> tuple[slice, slice]:
    """The border that a shift leaves empty, and what lies across its edge."""
    if by > 0:
        return slice(0, by), slice(by + 1, 2 * by + 1)
    return slice(side + by, side), slice(side + 2 * by - 1, side + by - 1)


def _flip(image_HWC: Pixels, mirrored: int, upended: int, out_HWC: Pixels) -> None:
    if mirrored or upended:  # cv2: 1 left-right, 0 top-bottom, -1 both
        cv2.flip(image_HWC, -1 if mirrored and upended else mirrored, dst=out_HWC)
    else:
        out_HWC[:] = image_HWC


def colour(x_BCHW: Tensor, *, policy: str, generator: torch.Generator) -> Tensor:
    """uint8 images in, float images 0..255 of the same shape out, in other memory."""
    if policy not in (*UNCOLOURED, *SCALED):
        from tire_pipeline.training.policies import augment  # noqa: PLC0415  (two seconds that `light` need not wait)

        return augment(x_BCHW, policy=policy, generator=generator).to(torch.float32)
    made_BCHW = x_BCHW.to(torch.float32, copy=True)
    if policy in UNCOLOURED:
        return made_BCHW
    gain, bias = (_uniform(len(x_BCHW), 0.2, generator).to(x_BCHW.device) for _ in range(2))
    return made_BCHW.mul_(1 + gain).add_(64 * bias).clamp_(0, 255)


def normalise_(x_BCHW: Tensor, *, mean: Triple = IMAGENET_MEAN, std: Triple = IMAGENET_STD) -> Tensor:
    """Float images 0..255 as the model's input, (x/255 − mean)/std by channel, in channels-last memory. In place where
    they lie there already: memory fresh from the system costs a CPU more than the arithmetic."""
    x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = x_BCHW.shape
    mean_C, std_C = (torch.tensor(v, device=x_BCHW.device) for v in (mean, std))
    x_rows = x_BCHW.permute(0, 2, 3, 1).view(batch, height, width * channels)  # long rows, which a CPU vectorises
    x_rows.mul_((1 / (255 * std_C)).repeat(width)).sub_((mean_C / std_C).repeat(width))
    return x_BCHW


def _uniform(n: int, spread: float, generator: torch.Generator) -> Tensor:
    return ((torch.rand(n, generator=generator) * 2 - 1) * spread)[:, None, None, None]
