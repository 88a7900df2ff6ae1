"""Rows of an index, as a snapshot has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tire_pipeline.fingerprints import fingerprint


def rows_of(num: int, *, first: int = 0, **columns: Any) -> pd.DataFrame:
    """`num` images of two labels, each a group of its own, without given splits. `columns` replace or add some."""
    numbers = range(first, first + num)
    content = [f"{i * 2654435761 % 2**32:08x}{i:056x}" for i in numbers]
    index = pd.DataFrame({"path": [f"{i}.jpg" for i in numbers], "sha256": content, "label": "", "split": ""})
    index["label"] = [("good", "defective")[i % 2] for i in numbers]
    index["group"] = index["sha256"].str[:16]
    return index.assign(**columns)


def tyres(num: int, *, shots: int = 3, first: int = 0) -> pd.DataFrame:
    """`num` tyres of a given group each, photographed `shots` times."""
    index = rows_of(num * shots, first=first * shots)
    number = pd.Series(range(first * shots, (first + num) * shots)) // shots
    return index.assign(group="tyre-" + number.astype(str), label=number.map(lambda n: ("good", "defective")[n % 2]))


def noise_print(seed: int) -> bytes:
    """The fingerprint of a picture of noise; every seed gives one that is like no other."""
    return fingerprint(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8))
