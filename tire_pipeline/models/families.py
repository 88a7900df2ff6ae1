"""Networks of torchvision and timm, cut into backbone and last layer."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tire_pipeline.errors import InputError
from tire_pipeline.models.classifier import Parts, take_apart

# Our name to torchvision's. The ResNeXts are the ones with 32 groups: 32x4d and 32x8d.
TORCHVISION = {
    **{name: name for name in ("resnet18", "resnet34", "resnet50", "vgg19")},
    "resnext50": "resnext50_32x4d",
    "resnext101": "resnext101_32x8d",
    **{name: name for name in (f"efficientnet_b{i}" for i in range(6))},
    **{name: name for name in (f"convnext_{size}" for size in ("tiny", "small", "base", "large"))},
}
TIMM = "timm:"


def torchvision(name: str, num_classes: int) -> Parts:
    from torchvision import models  # noqa: PLC0415  (two seconds that the small networks need not wait)

    return take_apart(models.get_model(TORCHVISION[name], weights=None, num_classes=num_classes))


def timm(name: str, num_classes: int, *, size: tuple[int, int], arguments: Mapping[str, Any]) -> Parts:
    """`name` is timm's own, with or without a tag; `arguments` go to its constructor.

    Networks that are built for one size (transformers) are built for `size` (height, width). Raises InputError for a
    name that timm does not know, with those that are close, or arguments and sizes that the network refuses.
    """
    import timm  # noqa: PLC0415

    check_timm(name)
    config = timm.get_pretrained_cfg(name.split(".")[0])
    is_native = config is None or not config.fixed_input_size or config.input_size[1:] == size
    built_for: dict[str, Any] = {} if is_native else {"img_size": size}  # not every network has the argument
    try:
        network = timm.create_model(name, num_classes=0, **built_for, **arguments)
        num_features = _num_features(network, size)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"timm's {name} does not take images of {size[0]} × {size[1]} pixels"
            f"{f', or not with {dict(arguments)}' if arguments else ''}: {error}. Try another size, such as 224."
        ) from None
    head = config.classifier if config is not None and isinstance(config.classifier, str) else "head"
    return Parts(network, nn.Linear(num_features, num_classes), 0.0, head)


@torch.inference_mode()
def _num_features(network: nn.Module, size: tuple[int, int]) -> int:
    """By trial: of a thousand architectures some count before their last layer, and some refuse the size only here."""
    features_BF = network.eval()(torch.zeros(1, 3, *size))
    if features_BF.ndim != 2:
        raise ValueError(f"it gives {features_BF.ndim}-dimensional features, not one vector an image")
    network.train()
    return int(features_BF.shape[1])


def check_timm(name: str) -> None:
    """Raise InputError for a name that timm does not know, or a tag for which it has no weights."""
    import timm  # noqa: PLC0415

    architecture, _, tag = name.partition(".")
    known = timm.list_models()
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=3)
        hint = f"did you mean {' or '.join(repr(TIMM + n) for n in near)}?" if near else "see timm.list_models()."
        raise InputError(f"timm {timm.__version__} has no network {architecture!r}; {hint}")
    tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise InputError(f"timm has no weights {tag!r} of {architecture}; it has: {', '.join(tags) or 'none'}.")
