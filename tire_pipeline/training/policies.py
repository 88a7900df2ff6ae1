"""Augmentation policies out of torchvision, each image with draws of its own, on uint8 tensors where they lie.

    custom     every second image zoomed to its middle; light, colour and noise of a camera
    auto       AutoAugment's policy for ImageNet (Cubuk et al., CVPR 2019): rotate, shear, posterize, invert, …
    trivial    one operation of any strength (Müller & Hutter, ICCV 2021)
    randaug    two operations of moderate strength (Cubuk et al., CVPRW 2020)

What comes in at a border is grey, because black would look like rubber, and pixels are interpolated, because the steps
of nearest neighbours would look like cuts. `auto` and `trivial` now and then darken or shift a small defect away: the
sheet (`sheet`) shows whether it matters.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torchvision.transforms import v2

NAMES = ("custom", "auto", "trivial", "randaug")
GREY = [124.0, 116.0, 104.0]
ZOOM = 0.875
NOISE = 0.03
SMOOTH = v2.InterpolationMode.BILINEAR


def augment(x_BCHW: Tensor, *, policy: str, generator: torch.Generator) -> Tensor:
    """uint8 images in, uint8 images of the same shape out; what is drawn follows from one number of the generator.

    torchvision draws from torch's own generators, which are as they were afterwards.
    """
    _, _, height, width = x_BCHW.shape
    transform = _transform(policy, height, width)
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[x_BCHW.device] if x_BCHW.is_cuda else []):
        torch.manual_seed(seed)
        return torch.stack([transform(x_CHW) for x_CHW in x_BCHW.contiguous()])  # noise is slow in channels-last memory


@cache
def _transform(policy: str, height: int, width: int) -> v2.Transform:
    if policy == "custom":
        middle = [v2.CenterCrop((round(ZOOM * height), round(ZOOM * width))), v2.Resize((height, width))]
        colour = v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)  # hue would take ten times as long
        return v2.Compose([v2.RandomApply(middle, p=0.5), colour, v2.GaussianNoise(sigma=NOISE)])
    if policy == "auto":
        return v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, interpolation=SMOOTH, fill=GREY)
    kind = {"trivial": v2.TrivialAugmentWide, "randaug": v2.RandAugment}[policy]
    return kind(interpolation=SMOOTH, fill=GREY)
