"""Small convolutional networks trained from scratch.

`base_cnn` is a textbook's. Two things set the others apart from it: each image is brought to zero mean and unit
variance first, so light and exposure do not matter; and the head sees the largest activation beside the mean one,
because a crack is a small thing on a large tyre.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def cnn(num_classes: int) -> nn.Module:
    """Six convolutions, the first 5 × 5 with stride 2, in three stages (16 to 128 channels); 0.19 million weights."""
    return nn.Sequential(
        _per_image(),
        _convolution(3, 16, kernel=5, stride=2),
        _convolution(16, 32),
        nn.MaxPool2d(2),
        _convolution(32, 48),
        _convolution(48, 64),
        nn.MaxPool2d(2),
        _convolution(64, 96),
        _convolution(96, 128),
        *_head(128, num_classes),
    )


def tiny_vgg(num_classes: int) -> nn.Module:
    """VGG's pattern (Simonyan & Zisserman 2015) at a small width: pairs of 3 × 3 convolutions, each then a pool."""
    return nn.Sequential(
        _per_image(),
        _convolution(3, 16),
        _convolution(16, 16),
        nn.MaxPool2d(2),
        _convolution(16, 32),
        _convolution(32, 32),
        nn.MaxPool2d(2),
        _convolution(32, 64),
        _convolution(64, 64),
        nn.MaxPool2d(2),
        *_head(64, num_classes),
    )


def base_cnn(num_classes: int) -> nn.Module:
    """The plain baseline that others are to beat: three convolutions, two pools, dropout, and the mean of each map."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(128, num_classes),
    )


class MeanAndMax(nn.Module):
    """(B, C, H, W) to (B, 2C): the mean and the largest activation of each channel."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.cat([x_BCHW.mean(dim=(2, 3)), x_BCHW.amax(dim=(2, 3))], dim=1)


def _per_image() -> nn.Module:
    """Zero mean and unit variance over all pixels and channels of an image (one group over three channels)."""
    return nn.GroupNorm(1, 3, affine=False, eps=1e-3)


def _convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _head(channels: int, num_classes: int) -> tuple[nn.Module, ...]:
    return MeanAndMax(), nn.Dropout(0.2), nn.Linear(2 * channels, num_classes)
