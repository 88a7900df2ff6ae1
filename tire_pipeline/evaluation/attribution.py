"""Where a network looked: which pixels made it give the class that it gave."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import nn

from tire_pipeline.bundle import Bundle
from tire_pipeline.evaluation.answers import Answers
from tire_pipeline.imaging import Pixels, Preprocessing, normalise
from tire_pipeline.metrics import Floats, Ints

STEPS = 16
AT_ONCE = 64


def maps(model: nn.Module, bundle: Bundle, answers: Answers, rows: Ints) -> list[Pixels]:
    """For each of the rows, its picture with what argued for the class that was given over it."""
    if not len(rows):
        return []
    pictures = np.stack([answers.picture(i) for i in rows])
    found = attribution(model, pictures, answers.scored.predicted_N[rows], bundle.preprocessing)
    return [overlay(pixels, m) for pixels, m in zip(pictures, found, strict=True)]


def attribution(model: nn.Module, images_BHWC: Pixels, targets_B: Ints, preprocessing: Preprocessing) -> Floats:
    """(B, H, W), 0 to 1: how much each place argued for the target class, against a picture of mean grey.

    Integrated gradients (Sundararajan et al., ICML 2017), summed over the channels, without what argued against it,
    and smoothed over a fiftieth of the picture, since single pixels mean nothing to a person.
    """
    x_BCHW = torch.from_numpy(normalise(images_BHWC, preprocessing))
    found = IntegratedGradients(model).attribute(
        x_BCHW, target=torch.from_numpy(np.asarray(targets_B, np.int64)), n_steps=STEPS, internal_batch_size=AT_ONCE
    )
    for_it_BHW = found.sum(dim=1).clamp(min=0).numpy().astype(np.float32)
    smooth_BHW = np.stack([cv2.GaussianBlur(m, (0, 0), sigmaX=max(m.shape) / 50) for m in for_it_BHW])
    highest_B11 = smooth_BHW.max(axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(smooth_BHW, highest_B11, out=np.zeros_like(smooth_BHW), where=highest_B11 > 0))


def overlay(pixels_HWC: Pixels, map_HW: Floats) -> Pixels:
    """The picture in grey with the map over it, from nothing to red."""
    grey_HW = cv2.cvtColor(pixels_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32)
    strength_HW1 = np.asarray(map_HW, np.float32)[..., None]
    red_3 = np.array([230, 40, 20], np.float32)
    mixed = grey_HW[..., None] * (1 - 0.75 * strength_HW1) + red_3 * (0.75 * strength_HW1)
    return cast("Pixels", mixed.clip(0, 255).astype(np.uint8))
