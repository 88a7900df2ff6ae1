"""The metadata probe: can the label be told without looking at the picture?

Where size, format, camera or brightness give the label away, a model may learn these instead of the defect, and its
figures promise what the factory will not see.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

NUMBERS = ("width", "height", "brightness")
WORDS = ("format", "camera")
FOLDS = 5
ROWS_MAX = 20_000


def balanced_accuracy(usable: pd.DataFrame) -> float | None:
    """Of a classifier on width, height, format, brightness and camera alone, in folds by group; chance is 1/K.

    Deterministic; above 20,000 rows a sample of whole groups is judged. None where there are too few groups of a class
    to judge by.
    """
    rows = _sample(usable)
    groups_of_class = rows.groupby("label")["group"].nunique()
    if len(groups_of_class) < 2 or groups_of_class.min() < 2 * FOLDS:
        return None
    codes = [pd.factorize(rows[c], sort=True)[0] for c in WORDS]
    x_ND = np.column_stack([*(rows[c].to_numpy(float) for c in NUMBERS), *codes])
    y_N = rows["label"].to_numpy(str)
    model = HistGradientBoostingClassifier(
        max_iter=40, max_leaf_nodes=8, min_samples_leaf=10, class_weight="balanced", random_state=0
    )
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    given_N = cross_val_predict(model, x_ND, y_N, groups=rows["group"], cv=folds)
    return mean_recall(y_N, given_N)


def mean_recall(y_N: npt.NDArray[np.str_], given_N: npt.NDArray[np.str_]) -> float:
    """Balanced accuracy: the mean over the classes of the share that was recognised."""
    return float(np.mean([np.mean(given_N[y_N == label] == label) for label in np.unique(y_N)]))


def _sample(usable: pd.DataFrame) -> pd.DataFrame:
    if len(usable) <= ROWS_MAX:
        return usable
    groups = np.random.default_rng(0).permutation(usable["group"].unique())
    size = usable.groupby("group").size().reindex(groups).cumsum()
    return usable[usable["group"].isin(size[size <= ROWS_MAX].index)]
