"""Augmentation of whole uint8 batches, on the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SHIFT_FRACTION = 0.08


def augment(x_BCHW: Tensor, *, policy: str, generator: torch.Generator) -> Tensor:
    """Float images 0..255 in, the same shape and range out. `none` changes nothing.

    `light` flips both ways, turns by a quarter, shifts by up to 8 % with reflected borders, and scales brightness and
    contrast by up to 20 %: what a tyre on a belt does before a camera, with no effect on its label.
    """
    if policy == "none":
        return x_BCHW
    x_BCHW = _flip_and_turn(x_BCHW, generator)
    x_BCHW = _shift(x_BCHW, generator)
    gain, bias = (_uniform(len(x_BCHW), 0.2, generator).to(x_BCHW.device) for _ in range(2))
    return (x_BCHW * (1 + gain) + 64 * bias).clamp_(0, 255)


def _flip_and_turn(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    choices = torch.rand(3, len(x_BCHW), generator=generator) < 0.5
    for flipped, dims in zip(choices[:2], ((3,), (2,)), strict=True):
        x_BCHW = torch.where(flipped[:, None, None, None].to(x_BCHW.device), x_BCHW.flip(dims), x_BCHW)
    if x_BCHW.shape[2] == x_BCHW.shape[3]:
        x_BCHW = torch.where(choices[2][:, None, None, None].to(x_BCHW.device), x_BCHW.transpose(2, 3), x_BCHW)
    return x_BCHW


def _shift(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    height, width = x_BCHW.shape[2:]
    pad_y, pad_x = max(1, round(SHIFT_FRACTION * height)), max(1, round(SHIFT_FRACTION * width))
    padded = F.pad(x_BCHW, (pad_x, pad_x, pad_y, pad_y), mode="reflect")
    ys = torch.randint(0, 2 * pad_y + 1, (len(x_BCHW),), generator=generator).tolist()
    xs = torch.randint(0, 2 * pad_x + 1, (len(x_BCHW),), generator=generator).tolist()
    return torch.stack([p[:, y : y + height, x : x + width] for p, y, x in zip(padded, ys, xs, strict=True)])


def _uniform(n: int, spread: float, generator: torch.Generator) -> Tensor:
    return ((torch.rand(n, generator=generator) * 2 - 1) * spread)[:, None, None, None]
