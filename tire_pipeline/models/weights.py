"""Pretrained weights: found by name in a folder, an S3 prefix or a hub, and never used unless their sha256 is right.

Files are safetensors, or PyTorch's own format read with `weights_only=True`, so that nothing in them is run.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tire_pipeline.errors import InputError
from tire_pipeline.models.hub import download
from tire_pipeline.models.licences import UNKNOWN, forbids_commercial_use
from tire_pipeline.models.manifest import MANIFEST, SUMS, choose, parse
from tire_pipeline.refs import WeightsRef, digest_of_file
from tire_pipeline.stores.objects import ObjectStore

S3 = "s3://"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """Weights on this disk; without a `path`, only what a network that had them is built with."""

    path: Path | None
    ref: WeightsRef

    def read(self) -> dict[str, Tensor]:
        """The tensors by name, floats as float32. Raises InputError where the file is not the one that `ref` means."""
        if self.path is None or not self.path.is_file():
            raise InputError(f"The weights {self.ref.file} are not at {self.path}. Is TIRE_WEIGHTS their folder?")
        _check(self.path, self.ref)
        try:
            state = load_file(self.path) if self.path.suffix == ".safetensors" else _unpickled(self.path)
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise InputError(f"{self.path} holds no plain tensors: {str(error).splitlines()[0]}") from None
        return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


@dataclass(frozen=True)
class WeightSource:
    """Where weights come from: `where` is a folder, `s3://bucket/prefix`, or empty for hubs alone.

    `cache` is a folder for what was downloaded; `bucket` gives the store of a bucket by its name.
    """

    where: str
    cache: Path
    bucket: Callable[[str], ObjectStore]
    allow_noncommercial: bool = False

    def resolve(self, weights: str, *, model_type: str) -> WeightsRef:
        """Which weights a training of `model_type` means: `imagenet`, or the name of a listed file.

        `imagenet` is the file that is listed for that network, else the hub's, which is then downloaded. Raises
        InputError for what is not there, is of another network, or has a licence that forbids commercial use (unless
        that is allowed), and ServiceUnavailable where a hub does not answer.
        """
        listed = parse(*self._manifest()) if self.where else []
        ref = choose(listed, weights, model_type=model_type) or download(model_type, self.cache)
        if forbids_commercial_use(ref.licence) and not self.allow_noncommercial:
            raise InputError(
                f"The licence of {ref.file}, {ref.licence}, forbids commercial use. Choose other weights, or set "
                "TIRE_ALLOW_NONCOMMERCIAL_WEIGHTS=true where the model is for research alone."
            )
        if ref.licence.lower() in UNKNOWN:
            log.warning("nobody states the licence of %s: find it out before its model is put to use", ref.file)
        log.info("weights %s for %s: sha256 %s, licence %s", ref.file, model_type, ref.sha256, ref.licence)
        return ref

    def fetch(self, ref: WeightsRef) -> Pretrained:
        """The file on this disk. Out of S3 it is copied into the cache, once, under its sha256."""
        cached = self.cache / f"{ref.sha256}{PurePosixPath(ref.file).suffix}"
        if not cached.is_file() and self.where and not self.where.startswith(S3):
            return Pretrained(Path(self.where) / ref.file, ref)
        if not cached.is_file() and self.where:
            self.cache.mkdir(parents=True, exist_ok=True)
            part = cached.with_suffix(f".{os.getpid()}.part")
            store, prefix = self._s3()
            with part.open("wb") as file:
                file.writelines(store.stream(f"{prefix}{ref.file}"))
            _check(part, ref)
            part.replace(cached)
        return Pretrained(cached, ref)

    def _manifest(self) -> tuple[str, str]:
        """Name and text of the manifest."""
        for name in (MANIFEST, SUMS):
            if (data := self._read(name)) is not None:
                return name, data.decode("utf-8-sig")
        raise InputError(
            f"TIRE_WEIGHTS is {self.where}, but there is neither {MANIFEST} nor {SUMS}, which state each file's sha256."
        )

    def _read(self, name: str) -> bytes | None:
        if not self.where.startswith(S3):
            path = Path(self.where) / name
            return path.read_bytes() if path.is_file() else None
        store, prefix = self._s3()
        return store.get(f"{prefix}{name}") if store.head(f"{prefix}{name}") is not None else None

    def _s3(self) -> tuple[ObjectStore, str]:
        bucket, _, prefix = self.where.removeprefix(S3).partition("/")
        prefix = prefix.strip("/")
        return self.bucket(bucket), f"{prefix}/" if prefix else ""


def _check(path: Path, ref: WeightsRef) -> None:
    if (found := digest_of_file(path)) != ref.sha256:
        raise InputError(
            f"The weights {ref.file} have the sha256 {found[:12]}…, but {ref.sha256[:12]}… is stated. Copy them again, "
            f"or correct the manifest."
        )


def _unpickled(path: Path) -> dict[str, Tensor]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} is no dictionary of tensors. Save the model's state_dict().")
    return state
