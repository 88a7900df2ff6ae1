"""How good a model is on the images that have one thing in common: a camera, a resolution, little light."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tire_pipeline.evaluation.answers import Answers
from tire_pipeline.metrics import proportion

SMALL = 20
VALUES_MAX = 20
PARTS = ("low", "middle", "high")
MEASURED = ("brightness", "contrast", "sharpness")
# What the index says of every image and is no way to divide them, or is divided in its own way below.
OTHER = frozenset(
    {
        *("path", "key", "sha256", "etag", "bytes", "label", "split", "columns", "mode", "width", "height"),
        *("orientation", "error", "phash", "fingerprint", "group", "side", "fold"),
        *("captured_at", "saturation", "predicted", "probability", "decision", "ms", *MEASURED),
    }
)


@dataclass(frozen=True)
class Slice:
    """Figures on some of the images. `small`: so few that they say little."""

    name: str
    num_images: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    small: bool


def slices(answers: Answers) -> list[Slice]:
    """Every slice of the answers, by what divides them: each column that the data came with, resolution, light, group.

    A column with over 20 values is cut into thirds where these are numbers; else those that are no small slice count.
    What labels.csv says of something, such as the camera, comes before what the files say.
    """
    divisions = dict(_divisions(answers.rows))
    divisions |= dict(_by_column(_columns(answers.rows)))
    found = []
    for column, values in divisions.items():
        for value in sorted(set(values) - {""}, key=_order):
            found.append(_measure(answers, f"{column}={value}", (values == value).to_numpy()))
    return found


def _divisions(rows: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """(name, a word for each row) of each way to divide them."""
    yield from _by_column(rows[[c for c in rows.columns if c not in OTHER and not c.startswith("p_")]])
    sizes = rows["width"].astype(str) + "×" + rows["height"].astype(str)
    if sizes.nunique() <= VALUES_MAX:
        if sizes.nunique() > 1:
            yield "resolution", sizes
    else:
        yield "resolution", _thirds(rows["width"] * rows["height"])
    for column in MEASURED:
        if rows[column].nunique() >= len(PARTS):
            yield column, _thirds(rows[column])
    if rows["group"].nunique() < len(rows):
        yield from _by_column(rows[["group"]].astype(str))


def _by_column(frame: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    for column in frame:
        words = frame[column].fillna("").astype(str)
        numbers = pd.to_numeric(words[words != ""], errors="coerce")
        if 2 <= words.nunique() <= VALUES_MAX:
            yield str(column), words
        elif words.nunique() > VALUES_MAX and not numbers.isna().any():
            yield str(column), _thirds(numbers).reindex(frame.index, fill_value="")
        elif (sizable := words.map(words.value_counts()) >= SMALL).any():
            yield str(column), words.where(sizable & (words.nunique() > 1), "")


def _columns(rows: pd.DataFrame) -> pd.DataFrame:
    """The other columns of labels.csv, one each. None for a snapshot of an older release."""
    texts = rows.get("columns", pd.Series("", index=rows.index))
    return pd.DataFrame([json.loads(text) if text else {} for text in texts], index=rows.index)


def _order(value: str) -> tuple[int, str]:
    """Thirds from low to high, names by the alphabet."""
    return (PARTS.index(value) if value in PARTS else 0, value)


def _thirds(values: pd.Series) -> pd.Series:
    """`low`, `middle` or `high`, a third of the rows each."""
    rank = values.rank(method="first").sub(1)
    return pd.Series(np.array(PARTS)[(rank * len(PARTS) // len(values)).astype(int)], index=values.index)


def _measure(answers: Answers, name: str, wanted: np.ndarray) -> Slice:
    s, groups = answers.where(wanted).scored, answers.groups[wanted]
    if len(np.unique(groups)) == 1:  # the figure is of this one thing, not of things like it
        groups = np.arange(len(groups))
    accuracy, low, high = proportion(s.correct, groups)
    positive_N = s.truth
    of_positive = proportion(s.given[positive_N], groups[positive_N]) if positive_N.any() else (None, None, None)
    recall, recall_low, recall_high = of_positive
    small = len(s.y_N) < SMALL
    return Slice(name, len(s.y_N), accuracy, low, high, recall, recall_low, recall_high, small)
