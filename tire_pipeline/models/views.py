"""Four ways to lay an image, and one answer out of the answers to several of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FLIPS = 4


def lay(x_BCHW: Tensor, view: int) -> Tensor:
    """The images as `view` (0..3) lays them: as they are, mirrored, upended, or both."""
    sides = [side for bit, side in ((1, 3), (2, 2)) if view & bit]
    return x_BCHW.flip(sides) if sides else x_BCHW


def agree(logits: Sequence[Tensor]) -> Tensor:
    """Logits (B, K) whose softmax is the mean of the views' probabilities; of one view its very logits."""
    if len(logits) == 1:
        return logits[0]
    return torch.stack(list(logits)).log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
