"""Pretrained weights by the loaders of torchvision and timm, kept as safetensors in a folder under their sha256."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.imaging import IMAGENET_MEAN, IMAGENET_STD
from tire_pipeline.models.families import TIMM, TORCHVISION, check_timm
from tire_pipeline.refs import WeightsRef, digest_of_file


def download(model_type: str, folder: Path) -> WeightsRef:
    """The weights that the network's library comes with, from `folder` or by its loader, which checks their hash.

    Raises InputError for a network that has none, and ServiceUnavailable where its hub does not answer.
    """
    note = folder / f"{model_type.replace(':', '-')}.json"
    if note.is_file():
        kept = WeightsRef.from_dict(json.loads(note.read_text()))
        if (folder / f"{kept.sha256}.safetensors").is_file():
            return kept
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{note.stem}.{os.getpid()}.part"
    try:
        network, licence, mean, std = _loader(model_type)()
    except OSError as error:  # URLError, ConnectionError, and the hub's own
        raise ServiceUnavailable(
            f"The weights of {model_type} could not be downloaded ({type(error).__name__}: {str(error)[:160]}). Put "
            "them into a folder or S3 prefix that TIRE_WEIGHTS names; where a hub may be asked, set HF_HUB_OFFLINE=0."
        ) from None
    save_file({k: v.contiguous().clone() for k, v in network.state_dict().items()}, part)  # some share memory
    sha256 = digest_of_file(part)
    part.replace(folder / f"{sha256}.safetensors")
    ref = WeightsRef(f"{model_type}.safetensors", sha256, model_type, licence, mean, std)
    part.write_text(json.dumps(asdict(ref)))
    part.replace(note)
    return ref


Loaded = tuple[nn.Module, str, tuple[float, float, float], tuple[float, float, float]]


def _loader(model_type: str) -> Callable[[], Loaded]:
    if model_type.startswith(TIMM):
        return lambda: _timm(model_type.removeprefix(TIMM))
    if model_type in TORCHVISION:
        return lambda: _torchvision(TORCHVISION[model_type])
    raise InputError(f"There are no ImageNet weights of {model_type}. Leave `weights` at none, or name a file.")


def _torchvision(name: str) -> Loaded:
    from torchvision import models  # noqa: PLC0415  (two seconds)

    weights = models.get_model_weights(name).DEFAULT
    network = models.get_model(name, weights=None)
    network.load_state_dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    return network, "bsd-3-clause", IMAGENET_MEAN, IMAGENET_STD


def _timm(name: str) -> Loaded:
    import timm  # noqa: PLC0415

    check_timm(name)
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise InputError(f"timm has no weights of {name}. Leave `weights` at none, or name a file.")
    network = timm.create_model(name, pretrained=True)
    mean, std = config.mean, config.std
    return network, config.license or "", (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
