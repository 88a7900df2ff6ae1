"""Losses, each a sum over the images it is given: the parts of a batch add up to the batch.

Targets are class indices (B,), or, of mixed images, shares of the classes (B, K).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tire_pipeline.metrics import Ints
from tire_pipeline.training.config import TrainingConfig

Loss = Callable[[Tensor, Tensor], Tensor]
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
FOCAL_GAMMA = 2


def make_loss(config: TrainingConfig, *, labels_N: Ints, num_classes: int, device: torch.device) -> Loss:
    """The configuration's loss; `labels_N` are those that are trained on, which balanced class weights follow."""
    if config.loss == "f1":
        return lambda logits_BK, y: soft_f1(logits_BK, as_shares(y, num_classes))
    weight_K = None
    if config.class_weights == "balanced":
        weight_K = torch.from_numpy(balanced_weights(labels_N, num_classes)).to(device, torch.float32)

    def loss(logits_BK: Tensor, y: Tensor) -> Tensor:
        smoothing = config.label_smoothing
        losses_B = F.cross_entropy(logits_BK, y, weight=weight_K, label_smoothing=smoothing, reduction="none")
        if config.loss == "focal":
            losses_B = losses_B * focal_factor(logits_BK, y)
        return losses_B.sum()

    return loss


def balanced_weights(labels_N: Ints, num_classes: int) -> np.ndarray:
    """A weight a class, inverse to its number of images; the mean over all images is 1 (King & Zeng 2001).

    A class without an image has the weight 0: nothing is learnt of it.
    """
    counts_K = np.bincount(labels_N, minlength=num_classes)
    present = counts_K > 0
    return np.where(present, len(labels_N) / (present.sum() * np.maximum(counts_K, 1)), 0.0)


def focal_factor(logits_BK: Tensor, y: Tensor) -> Tensor:
    """(1 − p)^γ of the true class's probability, γ = 2 (Lin et al., ICCV 2017)."""
    p_BK = logits_BK.softmax(dim=1)
    p_B = p_BK.gather(1, y[:, None])[:, 0] if y.ndim == 1 else (p_BK * y).sum(dim=1)
    return (1 - p_B) ** FOCAL_GAMMA


def soft_f1(logits_BK: Tensor, shares_BK: Tensor) -> Tensor:
    """B × (1 − macro F1), with probabilities in the place of counts; over the classes that the images have.

    F1 is no sum over images: of a batch in parts this is the mean of the parts' F1, not the batch's own.
    """
    p_BK = logits_BK.softmax(dim=1)
    both_K, either_K = (p_BK * shares_BK).sum(dim=0), (p_BK + shares_BK).sum(dim=0)
    f1_K = 2 * both_K / either_K.clamp_min(1e-7)
    return len(logits_BK) * (1 - f1_K[shares_BK.sum(dim=0) > 0].mean())


def as_shares(y: Tensor, num_classes: int) -> Tensor:
    return F.one_hot(y, num_classes).float() if y.ndim == 1 else y


def make_mixing(config: TrainingConfig, *, num_classes: int) -> Mixing | None:
    """What makes of a batch and its classes a batch of mixed images and their shares, by the process' dice; or None."""
    if config.mixing == "none":
        return None
    from torchvision.transforms import v2  # noqa: PLC0415  (two seconds that others need not wait)

    kinds = [
        kind(alpha=config.mixing_alpha, num_classes=num_classes)
        for name, kind in (("mixup", v2.MixUp), ("cutmix", v2.CutMix))
        if config.mixing in (name, "both")
    ]
    mix: Mixing = kinds[0] if len(kinds) == 1 else v2.RandomChoice(kinds)
    return mix
