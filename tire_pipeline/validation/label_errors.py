"""Images whose label a model doubts: confident learning (Northcutt et al., J. Artif. Intell. Res. 2021) by cleanlab."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from cleanlab.filter import find_label_issues
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tire_pipeline.validation.probe import FOLDS, mean_recall

Floats = npt.NDArray[np.floating]
TRUSTED = 0.7
SURE = 0.15  # a label that is less probable than this is doubted whatever the others are
ROWS_MAX = 20_000


@dataclass(frozen=True)
class Doubter:
    """What judged the labels of M images that it was not trained on: their positions among the usable rows, the
    probabilities (M, K) of the sorted labels, and its balanced accuracy."""

    name: str
    positions: npt.NDArray[np.int64]
    p_MK: Floats
    balanced_accuracy: float

    @property
    def trusted(self) -> bool:
        """Whether it knows enough of these images for its doubts to mean anything."""
        return self.balanced_accuracy >= TRUSTED


@dataclass(frozen=True)
class Suspect:
    """An image that is labelled `label` and looks like `looks_like`; `p_label` is the probability of its own label."""

    path: str
    key: str
    label: str
    looks_like: str
    p_label: float


def linear_probe(features_ND: Floats, usable: pd.DataFrame) -> Doubter | None:
    """Out-of-fold probabilities of a logistic regression on features, in folds by group; columns are sorted labels.

    None where a class has too few groups. Not worth its time beyond ROWS_MAX rows.
    """
    if usable["label"].nunique() < 2:
        return None
    if usable.groupby("label")["group"].nunique().min() < FOLDS:
        return None
    y_N = usable["label"].to_numpy(str)
    model = make_pipeline(
        StandardScaler(),
        PCA(min(64, len(usable) // 2, features_ND.shape[1]), svd_solver="randomized", random_state=0),
        LogisticRegression(C=0.05, max_iter=500),
    )
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    p_NK = cross_val_predict(model, features_ND, y_N, groups=usable["group"], cv=folds, method="predict_proba")
    return doubter("a linear probe on thumbnails", np.arange(len(usable)), p_NK, usable)


def doubter(name: str, positions: npt.NDArray[np.int64], p_MK: Floats, usable: pd.DataFrame) -> Doubter:
    """A judge of the labels at these positions; the columns of `p_MK` are the sorted labels of `usable`."""
    classes = np.unique(usable["label"].to_numpy(str))
    y_M = usable["label"].to_numpy(str)[positions]
    return Doubter(name, positions, p_MK, mean_recall(y_M, classes[p_MK.argmax(axis=1)]))


def suspects(doubter: Doubter, usable: pd.DataFrame) -> list[Suspect]:
    """Images that are probably labelled wrongly, the most doubtful first; none from a doubter that is not trusted.

    Where classes are easily told apart, confident learning asks for more certainty than a person who reviews would.
    """
    if not doubter.trusted:
        return []
    classes, y_N = np.unique(usable["label"].to_numpy(str), return_inverse=True)
    y_M, p_MK = y_N[doubter.positions], doubter.p_MK
    own_M = p_MK[np.arange(len(y_M)), y_M]
    doubted = np.flatnonzero(find_label_issues(y_M, p_MK, n_jobs=1) | (own_M < SURE))
    ranked = doubted[np.argsort(own_M[doubted], kind="stable")]
    rows, likely = usable.iloc[doubter.positions[ranked]], classes[p_MK[ranked].argmax(axis=1)]
    return [
        Suspect(path, key, label, str(other), float(p))
        for path, key, label, other, p in zip(
            rows["path"], rows["key"], rows["label"], likely, own_M[ranked], strict=True
        )
    ]
