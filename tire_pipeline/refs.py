"""What steps hand to each other: small frozen records of ids, keys and digests. Never arrays, frames or models.

Each is a frozen dataclass of JSON values, so `asdict(ref)` crosses a process, a container or an XCom and
`Ref(**record)` brings it back.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tire_pipeline.errors import InputError

VERSION_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check_version(version: str) -> str:
    """The dataset version's name, or InputError. `[a-z0-9][a-z0-9._-]{0,62}`: it is part of S3 keys and run ids."""
    if not VERSION_PATTERN.fullmatch(version):
        raise InputError(
            f"{version!r} is not a dataset version name: it must be 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or digit. Example: 2026-11-line3."
        )
    return version


def digest_of(value: Any) -> str:
    """SHA-256 (64 hex digits) of a JSON value in canonical form: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file that may be larger than memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class SnapshotRef:
    """The immutable reading of a dataset version. `digest` covers sorted (path, sha256, label, group)."""

    version: str
    digest: str
    num_images: int
    classes: list[str]


@dataclass(frozen=True)
class ScanShard:
    """A piece of a dataset version's listing, to be scanned by whoever; `part` (64 hex digits) names its result."""

    version: str
    part: str
    num_images: int


@dataclass(frozen=True)
class SplitRef:
    """One train/val/test assignment of a snapshot; `digest` names the parquet file beside the index."""

    snapshot: SnapshotRef
    digest: str
    num_train: int
    num_val: int
    num_test: int

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> SplitRef:
        return cls(**{**record, "snapshot": SnapshotRef(**record["snapshot"])})


@dataclass(frozen=True)
class WeightsRef:
    """Pretrained weights, exactly: what a network must be built with (`arguments`), and fed with, to use them.

    `mean` and `std` are of channels 0 to 1. `architecture` is the model type they are of, empty where nobody says so.
    """

    file: str
    sha256: str
    architecture: str
    licence: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    arguments: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> WeightsRef:
        return cls(**{**record, "mean": tuple(record["mean"]), "std": tuple(record["std"])})


@dataclass(frozen=True)
class TrainedRef:
    """One finished training: its cache key, MLflow run and bundle. `cached` says that nothing was trained again."""

    candidate: str
    key: str
    run_id: str
    bundle_digest: str
    snapshot_digest: str
    split_digest: str
    version: str
    cached: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class SearchRef:
    """A search as far as it went: its MLflow run, how many trials ended how, and the best one's value on the validation
    split, configuration and MLflow run."""

    study: str
    run_id: str
    metric: str
    num_complete: int
    num_pruned: int
    num_failed: int
    best_value: float
    best_run_id: str
    best_config: dict[str, Any]


@dataclass(frozen=True)
class EvaluationRef:
    """A candidate's figures on the locked test split. `metrics` holds name, name_low and name_high (95 % interval)."""

    trained: TrainedRef
    metrics: dict[str, float]
    metric: str
    threshold: float
    passed: bool
    reason: str
    num_test: int

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> EvaluationRef:
        return cls(**{**record, "trained": TrainedRef(**record["trained"])})


@dataclass(frozen=True)
class CrossValidationRef:
    """A candidate's figures over all images of a version, each answered by a model that saw nothing of its fold.

    `metrics` as of EvaluationRef; `folds` have the keys fold (a group, or a number), num_images, accuracy.
    """

    version: str
    candidate: str
    kind: str
    run_id: str
    metrics: dict[str, float]
    folds: list[dict[str, Any]]
    passed: bool
    reason: str


@dataclass(frozen=True)
class ModelRef:
    """One registered model version, exactly: never an alias."""

    name: str
    version: int
    run_id: str
    bundle_digest: str
    candidate: str
    snapshot_digest: str
    metric: str = ""
    value: float = 0.0


@dataclass(frozen=True)
class PromotionRef:
    """What a promotion gate decided, and why, in words a quality engineer reads."""

    promoted: bool
    reason: str
    model: ModelRef
    previous_version: int | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
