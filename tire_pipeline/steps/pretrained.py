"""Which pretrained weights a training means, and their file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tire_pipeline.errors import InputError

if TYPE_CHECKING:
    from tire_pipeline.models import WeightSource
    from tire_pipeline.training.config import TrainingConfig
    from tire_pipeline.wiring import Services


def resolved(s: Services, config: TrainingConfig) -> TrainingConfig:
    """The configuration with its weights pinned to a sha256; as it is where it has none.

    Raises InputError where they are not to be had, or not the ones that the configuration pinned before.
    """
    from tire_pipeline.training.recipes import NO_WEIGHTS

    if config.weights == NO_WEIGHTS:
        return config
    ref = _source(s).resolve(config.weights, model_type=config.model_type)
    if config.pretrained not in (None, ref):
        raise InputError(
            f"The weights {config.weights!r} changed since this training was planned: they are {ref.file} "
            f"({ref.sha256[:12]}…) now. Start it again."
        )
    return replace(config, pretrained=ref)


def fetched(s: Services, config: TrainingConfig) -> Path | None:
    """The file of a resolved configuration's weights on this disk, None where it has none."""
    return None if config.pretrained is None else _source(s).fetch(config.pretrained).path


def _source(s: Services) -> WeightSource:
    from tire_pipeline.models import WeightSource
    from tire_pipeline.stores.objects import connect

    return WeightSource(
        s.settings.weights,
        s.settings.cache / "weights",
        lambda bucket: connect(s.settings.model_copy(update={"bucket": bucket})),
        allow_noncommercial=s.settings.allow_noncommercial_weights,
    )
