"""The network that a configuration means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tire_pipeline.errors import InputError
from tire_pipeline.models import Classifier, Head, Pretrained, build
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.recipes import NO_WEIGHTS


def rebuild_network(
    config: TrainingConfig, *, num_classes: int, membership_KV: Sequence[Sequence[bool]] | None = None
) -> Classifier:
    """The same network for weights that were trained already: no pretrained file is asked for."""
    return _build(
        config, num_classes, membership_KV, Pretrained(None, config.pretrained) if config.pretrained else None
    )


def build_network(
    config: TrainingConfig,
    *,
    num_classes: int,
    membership_KV: Sequence[Sequence[bool]] | None = None,
    weights: Path | None = None,
) -> Classifier:
    """The untrained network, its backbone from the file `weights` where the configuration has pretrained ones.

    `membership_KV` as of `models.build`. Raises InputError where the file is missing or not the one that
    `config.pretrained` means.
    """
    pretrained = None
    if config.weights != NO_WEIGHTS:
        if config.pretrained is None or weights is None:
            raise InputError(f"The weights {config.weights!r} were not looked up. `steps.train` does it.")
        pretrained = Pretrained(weights, config.pretrained)
    return _build(config, num_classes, membership_KV, pretrained)


def _build(
    config: TrainingConfig,
    num_classes: int,
    membership_KV: Sequence[Sequence[bool]] | None,
    pretrained: Pretrained | None,
) -> Classifier:
    return build(
        config.model_type,
        num_classes=num_classes,
        seed=config.seed,
        size=(config.image_height, config.image_width),
        pooling=config.pooling,
        head=Head(config.head, config.dropout),
        pretrained=pretrained,
        fixed_norms=config.fixed_norms,
        views=config.views,
        frozen_until=config.frozen_until or "",
        membership_KV=membership_KV,
    )
