"""The proof that nothing is on two sides of a split."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tire_pipeline.errors import LeakageError
from tire_pipeline.splits.links import Links, Mask, link, named

FIX = (
    "Give each physical thing one group in labels.csv, and no `split` column that tears it apart; of near-duplicates "
    "keep one, or give all the same side."
)


def prove(
    index: pd.DataFrame, sides: pd.Series, *, together: pd.DataFrame | None = None, links: Links | None = None
) -> None:
    """Raise LeakageError naming what is on two sides: a content, a given group, a near-duplicate cluster, or a group
    that was joined of them. Images that are left out (side "") don't count.

    `together` has the names of groups and clusters (see `Split`); without it they are made of `links`, without these of
    the index (see `link`).
    """
    kept = (sides != "").to_numpy()
    if together is None:
        together = named(index, links or link(index), kept)
    columns = {
        "identical images": index["sha256"],
        "groups": index["group"],
        "near-duplicate clusters": together["cluster"],
        "groups joined by likeness or moment": together["group"],
    }
    for what, column in columns.items():
        _check_whole(what, column[kept], sides[kept], index["path"][kept])


def check_fixed(index: pd.DataFrame, links: Links, fixed: Mask) -> None:
    """Raise LeakageError when the splits that labels.csv or folders give tear something apart."""
    if fixed.any():
        prove(index, index["split"], together=named(index, links, fixed))


def _check_whole(what: str, name: pd.Series, sides: pd.Series, paths: pd.Series) -> None:
    codes, found = pd.factorize(name)
    number, _ = pd.factorize(sides)
    first = np.full(len(found), -1)
    first[codes[::-1]] = number[::-1]
    torn = np.unique(codes[number != first[codes]])
    if len(torn):
        of_first = codes == torn[0]
        at = pd.Series(paths.to_numpy()[of_first], index=sides.to_numpy()[of_first])
        where = " and ".join(f"{side} ({at[[side]].iloc[0]})" for side in sorted(set(at.index)))
        raise LeakageError(
            f"{len(torn)} {what} are on more than one side of the split (first: {found[torn[0]]!r} in {where}). {FIX}"
        )
