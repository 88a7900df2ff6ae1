"""The networks a candidate can be. Each takes normalised images (B, 3, H, W) and gives logits (B, K)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from tire_pipeline.errors import InputError
from tire_pipeline.imaging import IMAGENET_MEAN, IMAGENET_STD
from tire_pipeline.models.classifier import (
    Classifier,
    Combinations,
    Head,
    Parts,
    load_backbone,
    make_head,
    take_apart,
)
from tire_pipeline.models.families import TIMM, TORCHVISION, pool_both, timm, torchvision
from tire_pipeline.models.plain import base_cnn, cnn, tiny_vgg
from tire_pipeline.models.stages import check_stage
from tire_pipeline.models.views import FLIPS, agree, lay
from tire_pipeline.models.weights import Pretrained, WeightSource

__all__ = ["BUILDERS", "FLIPS", "Classifier", "Head", "Pretrained", "WeightSource", "agree", "build", "lay"]

BUILDERS: dict[str, Callable[[int], Parts]] = {
    "cnn": lambda num_classes: take_apart(cnn(num_classes)),
    "tiny_vgg": lambda num_classes: take_apart(tiny_vgg(num_classes)),
    "base_cnn": lambda num_classes: take_apart(base_cnn(num_classes)),
    **{name: partial(torchvision, name) for name in TORCHVISION},
}


def build(
    model_type: str,
    *,
    num_classes: int,
    seed: int,
    size: tuple[int, int] = (224, 224),
    pooling: str = "mean",
    head: Head = Head(),  # noqa: B008  (frozen)
    pretrained: Pretrained | None = None,
    fixed_norms: bool = False,
    views: int = 1,
    frozen_until: str = "",
    membership_KV: Sequence[Sequence[bool]] | None = None,
) -> Classifier:
    """A network whose fresh weights follow from the seed; those of the backbone are `pretrained` where that is given.

    `model_type` is a key of `BUILDERS` or `timm:<name>`; `size` (height, width) matters to networks that are built for
    one. `pooling` is `mean`, the network's own, or `mean_max`; `fixed_norms`, `views` and `frozen_until` as of
    `Classifier`. With `membership_KV` the classes combine values of several labels (see `several_labels.membership`),
    and the head has an output for each value. Raises InputError for a name that timm does not know, for weights of
    another architecture, and for a stage after which the network cannot be cut.
    """
    num_outputs = num_classes if membership_KV is None else len(membership_KV[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model_type.startswith(TIMM):
            arguments = pretrained.ref.arguments if pretrained else {}
            name = model_type.removeprefix(TIMM)
            parts = timm(name, num_outputs, size=size, arguments=arguments, pooling=pooling)
        else:
            parts = BUILDERS[model_type](num_outputs)
            parts = pool_both(parts, name=model_type) if pooling == "mean_max" else parts
        made = make_head(head, parts.linear, dropout=parts.dropout)
    if membership_KV is not None:
        made = nn.Sequential(made, Combinations(membership_KV))
    if pretrained and pretrained.path and (problems := load_backbone(parts, pretrained.read())):
        raise InputError(
            f"{pretrained.path.name} does not fit {model_type} at {size[0]} × {size[1]} pixels: {len(problems)} of its "
            f"tensors are missing, too many or of another shape, such as {problems[0]}. Name the architecture that the "
            "file is of, or the image size it was trained at."
        )
    if frozen_until:
        check_stage(parts.backbone, frozen_until, size=size)
    mean, std = (pretrained.ref.mean, pretrained.ref.std) if pretrained else (IMAGENET_MEAN, IMAGENET_STD)
    return Classifier(
        parts.backbone, made, mean=mean, std=std, fixed_norms=fixed_norms, views=views, frozen_until=frozen_until
    )
