"""Folds for cross-validation: every image is tested once, by a model that saw nothing that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from tire_pipeline.errors import InputError
from tire_pipeline.splits.candidates import Ints
from tire_pipeline.splits.links import Links, joined_groups, link

Kind = Literal["kfold", "logo"]
KINDS: tuple[Kind, ...] = ("kfold", "logo")
LOGO_MAX = 100  # models that are trained
VAL_PARTS = 6  # of what is left for training, one is held back for validation


@dataclass(frozen=True)
class Fold:
    """Positions of the rows a model is trained on, chosen by, and tested with. `name`: the group, or the number."""

    name: str
    train: Ints
    val: Ints
    test: Ints


def folds(index: pd.DataFrame, *, kind: str, k: int = 5, seed: int = 0, links: Links | None = None) -> list[Fold]:
    """`kfold`: k folds of whole groups with even classes; `logo`: each group is a fold (k does not matter).

    Groups are those of a split (see `link`). The same index, in whatever order, and seed give the same folds. Raises
    InputError for an unknown kind, too few groups, more than LOGO_MAX of them for `logo`, or a fold without a class
    to train on.
    """
    links = links or link(index)
    groups = joined_groups(index, links)
    labels = index["label"].to_numpy(object)
    found = np.unique(groups.astype(str))
    _check(kind, k, len(found))
    if kind == "logo":
        tests = [(str(name), np.flatnonzero(groups == name)) for name in found]
    else:
        tests = [(str(i), test) for i, test in enumerate(_parts(labels, groups, k, seed))]
    return [_fold(name, test, labels, groups, seed) for name, test in tests]


def _check(kind: str, k: int, num_groups: int) -> None:
    if kind not in KINDS:
        raise InputError(f"The cross-validation {kind!r} is unknown. Choose from: {', '.join(KINDS)}.")
    needed = 3 if kind == "logo" else max(k, 3)
    if k < 2 or num_groups < needed:
        raise InputError(
            f"Cross-validation in {k if kind == 'kfold' else num_groups} folds needs at least 2 folds and {needed} "
            f"groups; there are {num_groups} groups. Lower --folds, or add images of more physical things."
        )
    if kind == "logo" and num_groups > LOGO_MAX:
        raise InputError(
            f"Leaving out one of {num_groups} groups at a time would train {num_groups} models; "
            f"at most {LOGO_MAX} are. Use --cv kfold."
        )


def _fold(name: str, test: Ints, labels: np.ndarray, groups: np.ndarray, seed: int) -> Fold:
    rest = np.setdiff1d(np.arange(len(labels)), test)
    parts = min(VAL_PARTS, len(np.unique(groups[rest].astype(str))))
    val = rest[next(iter(_parts(labels[rest], groups[rest], parts, seed)))]
    train = np.setdiff1d(rest, val)
    if missing := sorted(set(labels) - set(labels[train])):
        raise InputError(
            f"Fold {name!r} leaves no image of {', '.join(map(repr, missing))} to train on: there are too few groups "
            "of it. Lower --folds, or add images of more physical things."
        )
    return Fold(name, train, val, test)


def _parts(labels: np.ndarray, groups: np.ndarray, k: int, seed: int) -> list[Ints]:
    """k parts of whole groups with classes as even as groups allow. Rows are put in order first: theirs is chance."""
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415  (a second that a split need not wait)

    order = np.lexsort((labels.astype(str), groups.astype(str)))
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    # Which of its classes has fewer images than folds is no concern of ours: groups are what is dealt.
    numbers = np.unique(labels[order].astype(str), return_inverse=True)[1]
    return [np.sort(order[test]) for _, test in splitter.split(order, numbers, groups[order].astype(str))]
