"""Small convolutional networks trained from scratch."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def cnn(num_classes: int) -> nn.Module:
    """Four blocks of conv–batch norm–ReLU–pool (32 to 128 channels), global average pooling, linear head."""
    channels = (3, 32, 64, 96, 128)
    blocks = [_block(a, b) for a, b in pairwise(channels)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(128, num_classes))


def tiny_vgg(num_classes: int) -> nn.Module:
    """VGG's pattern (Simonyan & Zisserman 2015) at a small width: pairs of 3 × 3 convolutions, then a pool."""
    channels = (3, 16, 32, 64, 96)
    blocks: list[nn.Module] = []
    for a, b in pairwise(channels):
        blocks += [_convolution(a, b), _convolution(b, b), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, num_classes))


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(_convolution(inputs, outputs), nn.MaxPool2d(2))


def _convolution(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )
