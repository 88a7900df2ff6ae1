"""What a snapshot's index says beyond counts: copies, outliers, drift, a label told by metadata, doubtful labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from tire_pipeline.fingerprints import THUMBNAIL, Bytes, unpack
from tire_pipeline.splits import Likeness
from tire_pipeline.validation import drift, label_errors, outliers, probe
from tire_pipeline.validation.drift import Shift
from tire_pipeline.validation.label_errors import Doubter, Suspect
from tire_pipeline.validation.outliers import Outlier

REFERENCE_COLUMNS = ("group", "error", *drift.NUMBERS, *drift.WORDS)


@dataclass(frozen=True)
class Reference:
    """What the model in production was trained on: the usable rows of its snapshot, with REFERENCE_COLUMNS."""

    version: str
    usable: pd.DataFrame


@dataclass(frozen=True)
class Signals:
    """Shares are 0..1 of the usable images. `probe` is a balanced accuracy, None where it could not be judged."""

    smallest_class_share: float = 1.0
    largest_group_share: float = 0.0
    duplicates: list[list[int]] = field(default_factory=list)
    outliers: list[Outlier] = field(default_factory=list)
    probe: float | None = None
    suspects: list[Suspect] = field(default_factory=list)
    doubter: str = ""
    shifts: list[Shift] = field(default_factory=list)
    reference: str = ""
    new_classes: list[str] = field(default_factory=list)
    missing_classes: list[str] = field(default_factory=list)

    def as_row(self, num_usable: int) -> dict[str, float]:
        """The figures that expectations judge."""
        copies = sum(len(cluster) - 1 for cluster in self.duplicates)
        return {
            "smallest_class_share": self.smallest_class_share,
            "largest_group_share": self.largest_group_share,
            "duplicate_share": copies / max(1, num_usable),
            "outlier_share": len({o.path for o in self.outliers}) / max(1, num_usable),
            "metadata_probe": self.probe or 0.0,
            "suspect_share": len(self.suspects) / max(1, num_usable),
            "num_shifts": sum(s.notable for s in self.shifts),
            "num_changed_classes": len(self.new_classes) + len(self.missing_classes),
        }


def measure(
    usable: pd.DataFrame,
    *,
    likeness: Likeness,
    prints_NB: Bytes,
    reference: Reference | None = None,
    champion: Doubter | None = None,
) -> Signals:
    """Every signal of the usable rows, with their likeness and fingerprints; compared with the champion's data and
    judged by it where there is a champion."""
    if usable.empty:
        return Signals()
    with threadpool_limits(1):  # the matrices are small: a second thread costs ten times what it saves, by waiting
        return _measured(usable, likeness, prints_NB, reference, champion)


def _measured(
    usable: pd.DataFrame, likeness: Likeness, prints_NB: Bytes, reference: Reference | None, champion: Doubter | None
) -> Signals:
    classes = usable["label"].value_counts()
    doubter = champion if champion is not None and champion.trusted else _linear_probe(usable, prints_NB)
    known = set(reference.usable["label"]) if reference else set(classes.index)
    return Signals(
        smallest_class_share=float(classes.min() / classes.max()),
        largest_group_share=float(usable["group"].value_counts().iloc[0] / len(usable)),
        duplicates=_duplicates(likeness),
        outliers=outliers.find(usable),
        probe=probe.balanced_accuracy(usable),
        suspects=label_errors.suspects(doubter, usable) if doubter else [],
        doubter=f"{doubter.name}, balanced accuracy {doubter.balanced_accuracy:.2f}" if doubter else "",
        shifts=drift.shifts(usable, reference.usable) if reference else [],
        reference=reference.version if reference else "",
        new_classes=sorted(set(classes.index) - known),
        missing_classes=sorted(known - set(classes.index)),
    )


def _duplicates(likeness: Likeness) -> list[list[int]]:
    """Row positions of each cluster of two or more near-copies, the largest cluster first."""
    cluster_N = likeness.clusters()
    positions = pd.Series(np.arange(len(cluster_N))).groupby(cluster_N)
    return sorted((list(map(int, rows)) for _, rows in positions if len(rows) > 1), key=lambda rows: -len(rows))


def _linear_probe(usable: pd.DataFrame, prints_NB: Bytes) -> Doubter | None:
    if len(usable) > label_errors.ROWS_MAX:
        return None
    small = unpack(prints_NB).thumbnails_NTT.reshape(-1, THUMBNAIL // 2, 2, THUMBNAIL // 2, 2).mean(axis=(2, 4))
    return label_errors.linear_probe(small.reshape(len(usable), -1), usable)
