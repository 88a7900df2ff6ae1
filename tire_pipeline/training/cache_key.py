"""The key of a training: what a bundle follows from, by digest. The same key, the same bundle, so it is made once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from tire_pipeline.refs import SplitRef, digest_of
from tire_pipeline.training.config import TrainingConfig

# What a bundle's content depends on. Reports, commands and stores may change without a new training; how a split came
# about, too: the key has its digest.
SOURCES = (
    "training",
    "models",
    "imaging.py",
    "bundle.py",
    "metrics/scored.py",
    "metrics/values.py",
    "datasets/cache.py",
    "datasets/pixels.py",
    "several_labels.py",
)


def key_of(key_parts: Mapping[str, Any]) -> str:
    """32 hex digits over the parts."""
    return digest_of(key_parts)[:32]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What sets two trainings apart, a part each: `config.epochs: 8, was 4`. Of digests the first digits are told."""
    found = []
    for name in ours.keys() | theirs.keys():
        new, old = ours.get(name), theirs.get(name)
        if name == "config":
            fields = (new or {}).keys() | (old or {}).keys()
            pairs = [(f"config.{f}", (new or {}).get(f), (old or {}).get(f)) for f in fields]
            found += [f"{field}: {a}, was {b}" for field, a, b in pairs if a != b]
        elif new != old:
            found.append(f"{name}: {str(new)[:8]}, was {str(old)[:8]}")
    return sorted(found)


def nearest(ours: Mapping[str, Any], earlier: Iterable[Mapping[str, Any]]) -> list[str]:
    """The fewest differences to any earlier training; none where there is no earlier one."""
    return min((differences(ours, theirs) for theirs in earlier), key=len, default=[])


def parts(split: SplitRef, config: TrainingConfig, positive_class: str | None) -> dict[str, Any]:
    """What the key is made of, by name."""
    return {
        "snapshot": split.snapshot.digest,
        "split": split.digest,
        "config": config.as_dict(),
        "positive_class": positive_class,
        "code": code_digest(),
    }


def cache_key(split: SplitRef, config: TrainingConfig, positive_class: str | None) -> str:
    """The key of the training that these make."""
    return key_of(parts(split, config, positive_class))


def code_digest() -> str:
    """SHA-256 over the source files that a bundle depends on."""
    digest = hashlib.sha256()
    root = files("tire_pipeline")
    for source in SOURCES:
        node = root / source
        found = [node] if node.is_file() else [n for n in node.iterdir() if n.name.endswith(".py")]
        for file in sorted(found, key=lambda n: n.name):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
