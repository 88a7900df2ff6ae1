"""Train, val and test: which image is on which side, and the proof that nothing is on two.

An image's side follows from a stable hash of its group, so it keeps its side when the dataset grows; only in a class of
very few groups is one moved, so that every side has every class.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

from tire_pipeline.errors import DataRefused, LeakageError
from tire_pipeline.refs import digest_of

SIDES = ("train", "val", "test")
FRACTIONS = {"train": 0.65, "val": 0.15, "test": 0.20}
BOUNDS = np.cumsum(list(FRACTIONS.values()))
MIDDLES = {side: float(bound) - FRACTIONS[side] / 2 for side, bound in zip(SIDES, BOUNDS, strict=True)}


def assign(index: pd.DataFrame, *, seed: int) -> pd.Series:
    """The side of each row ("train", "val", "test"), aligned with `index`.

    Needs the columns sha256, label, group and split; a given split is kept. Groups are connected through shared
    sha256 first. Raises DataRefused when a side would lack a class.
    """
    groups = connected_groups(index["group"], index["sha256"])
    labels_of: dict[str, set[str]] = {}
    for group, label, given in zip(groups, index["label"], index["split"], strict=True):
        if not given:
            labels_of.setdefault(group, set()).add(label)
    side_of = _stratified(labels_of, seed)
    sides = pd.Series([given or side_of[g] for given, g in zip(index["split"], groups, strict=True)], index=index.index)
    _check_classes(index["label"], sides)
    return sides


def _stratified(labels_of: dict[str, set[str]], seed: int) -> dict[str, str]:
    """The side of each group, by its hash; a side without a class takes the group of it that hashes nearest."""
    position = {group: _unit_hash(f"{seed}|{group}") for group in labels_of}
    side_of = {group: _side_at(u) for group, u in position.items()}
    for label in sorted(set().union(*labels_of.values())):
        members = sorted(group for group, labels in labels_of.items() if label in labels)
        for side in SIDES:
            held = Counter(side_of[g] for g in members)
            donors = [g for g in members if held[side_of[g]] > 1]
            if not held[side] and donors:
                side_of[min(donors, key=lambda g: abs(position[g] - MIDDLES[side]))] = side
    return side_of


def connected_groups(group: Iterable[str], sha256: Iterable[str]) -> list[str]:
    """Group names in which rows that share a group or their bytes are one; the name is the smallest of its groups."""
    parent: dict[str, str] = {}

    def find(x: str) -> str:
        while parent.setdefault(x, x) != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    first_group: dict[str, str] = {}
    for g, h in zip(group, sha256, strict=True):
        a, b = find(g), find(first_group.setdefault(h, g))
        parent[max(a, b)] = min(a, b)
    return [find(g) for g in group]


def prove(index: pd.DataFrame, sides: pd.Series) -> None:
    """Raise LeakageError naming the first group or content that is on two sides."""
    for column, what in (("group", "groups"), ("sha256", "identical images")):
        spread = sides.groupby(index[column]).nunique()
        if len(leaking := spread[spread > 1]):
            first = leaking.index[0]
            found = sorted(set(sides[index[column] == first]))
            raise LeakageError(
                f"{len(leaking)} {what} are on more than one side of the split (first: {first!r} in "
                f"{' and '.join(found)}). Give each physical thing one group in labels.csv and no `split` column that "
                "tears it apart."
            )


def digest(index: pd.DataFrame, sides: pd.Series) -> str:
    """SHA-256 of the assignment: the same sides, however they came about, are the same split."""
    return digest_of(sorted(zip(index["path"].tolist(), sides.tolist(), strict=True)))


def _unit_hash(key: str) -> float:
    """A stable hash in [0, 1)."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def _side_at(u: float) -> str:
    return SIDES[min(int(np.searchsorted(BOUNDS, u, side="right")), 2)]


def _check_classes(labels: pd.Series, sides: pd.Series) -> None:
    for side in SIDES:
        missing = sorted(set(labels) - set(labels[sides == side]))
        if missing:
            raise DataRefused(
                f"The {side} split would hold no image of {', '.join(map(repr, missing))}: there are too few groups to "
                "divide. Add images of more physical things, or give the splits in labels.csv."
            )
