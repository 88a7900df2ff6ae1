"""Which image is on which side, so that what belongs together is together, and stays where it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array

from tire_pipeline.errors import DataRefused
from tire_pipeline.refs import digest_of
from tire_pipeline.splits.candidates import Ints
from tire_pipeline.splits.links import Links, Mask, group_names, link, named
from tire_pipeline.splits.proof import check_fixed
from tire_pipeline.splits.quarantine import NO_SIDE, left_out
from tire_pipeline.splits.stratify import SIDES, stratified

LEFT_OUT = ""  # the side of an image that is on none
SWALLOWED_MAX = 0.20
BRIDGE = "It hangs together with images on different sides of the split (same group, near-duplicate, or moment)."
EARLIER = "It was left out of an earlier split, where it hung together with images on different sides."


@dataclass(frozen=True)
class Split:
    """An assignment, aligned with the rows of its index.

    `sides`: "train", "val", "test" or LEFT_OUT. `together`: the columns `group`, what the image must stay with, and
    `cluster`, its near-duplicates, by name. `left_out`: why, by path. `warnings`: what a person should know.
    """

    sides: pd.Series
    together: pd.DataFrame
    left_out: dict[str, str]
    warnings: list[str]


def assign(
    index: pd.DataFrame, *, seed: int, previous: Mapping[str, str] | pd.Series | None = None, links: Links | None = None
) -> Split:
    """A side for every row of the index, which needs the columns path, sha256, label, group and split.

    A split that labels.csv gives is kept. Else an image keeps the side that `previous` has under its sha256, then that
    of what it belongs to, then one by the hash of its group. What would join different sides is left out, and stays
    so. `links`: of this index, when they are known already.

    Raises LeakageError when given splits tear something apart, DataRefused when a side would lack a class.
    """
    links = links or link(index)
    fixed = (index["split"] != "").to_numpy()
    check_fixed(index, links, fixed)
    known = np.where(fixed, index["split"].to_numpy(object), _known(index, previous))
    earlier = known == LEFT_OUT
    side_N = np.select([known == s for s in SIDES], range(3), NO_SIDE)
    out = left_out(links, ~earlier, side_N, fixed)
    kept = ~earlier & ~out
    part_N = links.parts(kept)
    side_N = _complete(index, part_N, np.where(kept, side_N, NO_SIDE), kept, seed)
    sides = pd.Series(np.where(kept, np.array(SIDES, object)[side_N], LEFT_OUT), index=index.index)
    check_classes(index["label"], sides)
    together = named(index, links, kept)
    path = index["path"].to_numpy()
    why = dict.fromkeys(path[earlier], EARLIER) | dict.fromkeys(path[out], BRIDGE)
    return Split(sides, together, why, _warnings(part_N[kept], together["group"].to_numpy()[kept]))


def summary(index: pd.DataFrame, split: Split) -> dict[str, Any]:
    """What a person should know of a split, as JSON values: images on each side, by class, left out, warnings."""
    on = split.sides != LEFT_OUT
    table = pd.crosstab(index["label"][on], split.sides[on]).reindex(columns=list(SIDES), fill_value=0)
    classes = {str(label): {side: int(row[side]) for side in SIDES} for label, row in table.iterrows()}
    counts = {side: int((split.sides == side).sum()) for side in SIDES}
    return {"counts": counts, "classes": classes, "left_out": split.left_out, "warnings": split.warnings}


def digest(index: pd.DataFrame, sides: pd.Series) -> str:
    """SHA-256 of the assignment: the same sides, however they came about, are the same split."""
    return digest_of(sorted(zip(index["path"].tolist(), sides.tolist(), strict=True)))


def check_classes(labels: pd.Series, sides: pd.Series) -> None:
    """Raise DataRefused naming the classes that a side has no image of."""
    for side in SIDES:
        missing = sorted(set(labels) - set(labels[sides == side]))
        if missing:
            raise DataRefused(
                f"The {side} split would hold no image of {', '.join(map(repr, missing))}: there are too few groups to "
                "divide. Add images of more physical things, or give the splits in labels.csv."
            )


def _known(index: pd.DataFrame, previous: Mapping[str, str] | pd.Series | None) -> npt.NDArray[Any]:
    """The side that each image had, None for a new one."""
    if previous is None or not len(previous):
        return np.full(len(index), None, object)
    found = index["sha256"].map(previous)
    return np.asarray(found.astype(object).where(found.notna(), None), object)


def _complete(index: pd.DataFrame, part_N: Ints, side_N: Ints, kept: Mask, seed: int) -> Ints:
    """`side_N` with a side for all that are kept: that of their part, or a new one for a part that has none yet."""
    side_P = np.full(part_N.max(initial=-1) + 1, NO_SIDE)
    known = side_N != NO_SIDE
    side_P[part_N[known]] = side_N[known]
    label_N = pd.factorize(index["label"], sort=True)[0]
    settled = kept & (side_P[part_N] != NO_SIDE)
    held_LS = np.zeros((label_N.max(initial=-1) + 1, 3), np.int64)
    np.add.at(held_LS, (label_N[settled], side_P[part_N[settled]]), 1)
    new = np.flatnonzero(kept & ~settled)
    if len(new):
        part_G, first, group = np.unique(part_N[new], return_index=True, return_inverse=True)
        shape = (len(part_G), len(held_LS))
        count_GL = coo_array((np.ones(len(new), np.int64), (group, label_N[new])), shape=shape)
        name_G = group_names(index.iloc[new], group)[first]
        side_P[part_G] = stratified(name_G.tolist(), count_GL, held_LS, seed=seed)
    return np.asarray(side_P[part_N], np.int64)


def _warnings(part_N: Ints, name_N: npt.NDArray[Any]) -> list[str]:
    _, first, counts = np.unique(part_N, return_index=True, return_counts=True)
    large = np.flatnonzero(counts > SWALLOWED_MAX * len(part_N))
    return [
        f"The group {name_N[first[i]]!r} holds {counts[i]} of {len(part_N)} images ({counts[i] / len(part_N):.0%}), "
        "all on one side. If they show different things, give each thing its own group in labels.csv."
        for i in large
    ]
