"""What changed since the data that the model in production was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp

NUMBERS = ("width", "height", "brightness", "contrast", "sharpness", "saturation")
WORDS = ("label", "format", "camera")
DISTANCE_MAX = 0.2
P_MAX = 0.01


@dataclass(frozen=True)
class Shift:
    """How far a column moved. `distance` is 0 (the same) to 1 (nothing in common); `p` is of the null hypothesis that
    groups were drawn from one population, None for words."""

    column: str
    distance: float
    p: float | None
    before: str
    now: str

    @property
    def notable(self) -> bool:
        """Large enough to matter, and not by chance over the columns that are compared (Bonferroni)."""
        return self.distance > DISTANCE_MAX and (self.p is None or self.p < P_MAX / len(NUMBERS))


def shifts(usable: pd.DataFrame, reference: pd.DataFrame) -> list[Shift]:
    """Each column that both frames have, the largest shift first.

    Numbers: the Kolmogorov-Smirnov distance, with p from the means of groups, because shots of one physical thing are
    not independent. Words: the total variation distance of their shares.
    """
    columns = usable.columns.intersection(reference.columns)
    found = [_of_numbers(usable, reference, c) for c in NUMBERS if c in columns]
    found += [_of_words(usable[c], reference[c]) for c in WORDS if c in columns]
    return sorted(found, key=lambda s: -s.distance)


def _of_numbers(usable: pd.DataFrame, reference: pd.DataFrame, column: str) -> Shift:
    now, before = usable[column].to_numpy(float), reference[column].to_numpy(float)
    of_groups = [frame.groupby("group")[column].mean().to_numpy(float) for frame in (usable, reference)]
    return Shift(
        column,
        distance=float(ks_2samp(now, before).statistic),
        p=float(ks_2samp(*of_groups).pvalue),
        before=f"median {np.median(before):.4g}",
        now=f"median {np.median(now):.4g}",
    )


def _of_words(now: pd.Series, before: pd.Series) -> Shift:
    shares = [s.astype(str).replace("", "none").value_counts(normalize=True) for s in (now, before)]
    both = pd.concat(shares, axis=1, keys=["now", "before"]).fillna(0.0)
    largest = {side: both[side].nlargest(3) for side in both}
    texts = {side: ", ".join(f"{w} {share:.0%}" for w, share in top.items() if share) for side, top in largest.items()}
    distance = float((both["now"] - both["before"]).abs().sum() / 2)
    return Shift(str(now.name), distance, None, before=texts["before"], now=texts["now"])
