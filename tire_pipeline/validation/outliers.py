"""Images that stand apart from the rest of their dataset in size, light or focus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

FAR = 6.0
LEAST_SPREAD = 0.05  # of the median
LEAST_LOG_SPREAD = 0.15  # so that half as large again is no outlier, and three times as large is
COLUMNS = ("megapixels", "aspect", "brightness", "contrast", "sharpness", "saturation")


@dataclass(frozen=True)
class Outlier:
    """One image's value of one column, with the range within which the others lie."""

    path: str
    key: str
    column: str
    value: float
    low: float
    high: float


def find(usable: pd.DataFrame) -> list[Outlier]:
    """Values farther than 6 robust standard deviations from the median, the farthest first.

    Robust: 1.4826 × the median absolute deviation (Leys et al., J. Exp. Soc. Psychol. 2013), with a floor, so that a
    camera that never varies does not make every other an outlier. Sizes and sharpness are compared by their logarithm.
    """
    found: list[tuple[float, Outlier]] = []
    for column in COLUMNS:
        if (values_N := _values(usable, column)) is None or not len(values_N):
            continue
        logs = column in ("megapixels", "aspect", "sharpness")
        x_N = np.log(np.maximum(values_N, 1e-6)) if logs else values_N
        middle = float(np.median(x_N))
        least = LEAST_LOG_SPREAD if logs else LEAST_SPREAD * abs(middle)
        spread = max(1.4826 * float(np.median(np.abs(x_N - middle))), least)
        low, high = middle - FAR * spread, middle + FAR * spread
        bounds = (np.exp(low), np.exp(high)) if logs else (max(0.0, low), high)  # no measure is negative
        for i in np.flatnonzero((x_N < low) | (x_N > high)):
            row = usable.iloc[int(i)]
            outlier = Outlier(row["path"], row["key"], column, float(values_N[i]), float(bounds[0]), float(bounds[1]))
            found.append((abs(float(x_N[i]) - middle) / spread, outlier))
    return [outlier for _, outlier in sorted(found, key=lambda f: -f[0])]


def _values(usable: pd.DataFrame, column: str) -> np.ndarray | None:
    if column == "megapixels":
        return (usable["width"] * usable["height"]).to_numpy(float) / 1e6
    if column == "aspect":
        return (usable["width"] / usable["height"]).to_numpy(float)
    return usable[column].to_numpy(float) if column in usable else None
