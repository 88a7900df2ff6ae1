"""Altered copies of photographs, as they slip into a data set: saved badly, cropped, brighter or darker, mirrored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from tests.unit.splits.rows import rows_of
from tire_pipeline import imaging
from tire_pipeline.fingerprints import fingerprint
from tire_pipeline.imaging import Pixels

PHOTOGRAPHS = Path(__file__).parents[4] / "shared" / "data" / "pitting"
Alteration = Callable[[Pixels, np.random.Generator], bytes]


def photograph_files() -> list[Path]:
    """Real photographs of pits in steel; the test is skipped where they are not."""
    if not PHOTOGRAPHS.is_dir():
        pytest.skip("The real photographs (shared/data/pitting beside the repository) are not here.")
    return sorted(PHOTOGRAPHS.glob("*/*.jpg"))


def saved_badly(pixels_HWC: Pixels, _: np.random.Generator) -> bytes:
    """JPEG of quality 30."""
    return imaging.encode_jpeg(pixels_HWC, quality=30)


def cropped(pixels_HWC: Pixels, rng: np.random.Generator) -> bytes:
    """5–20 % of its height and of its width is cut off, from whichever edges: up to a third of the picture."""
    height, width = (round(side * (1 - rng.uniform(0.05, 0.2))) for side in pixels_HWC.shape[:2])
    top, left = (int(rng.integers(0, a - b + 1)) for a, b in zip(pixels_HWC.shape, (height, width), strict=False))
    return imaging.encode_jpeg(np.ascontiguousarray(pixels_HWC[top : top + height, left : left + width]), quality=90)


def cropped_on_each_side(pixels_HWC: Pixels, rng: np.random.Generator) -> bytes:
    """5–20 % of its height is cut off the top and as much off the bottom, of its width left and right: half is left."""
    height, width = pixels_HWC.shape[:2]
    top, bottom, left, right = rng.uniform(0.05, 0.2, 4)
    rows, columns = (
        slice(round(top * height), -round(bottom * height)),
        slice(round(left * width), -round(right * width)),
    )
    return imaging.encode_jpeg(np.ascontiguousarray(pixels_HWC[rows, columns]), quality=90)


def lit_otherwise(pixels_HWC: Pixels, rng: np.random.Generator) -> bytes:
    """30 % brighter or darker."""
    return imaging.encode_jpeg(np.clip(pixels_HWC * rng.choice([0.7, 1.3]), 0, 255).astype(np.uint8), quality=90)


def mirrored(pixels_HWC: Pixels, _: np.random.Generator) -> bytes:
    return imaging.encode_jpeg(np.ascontiguousarray(pixels_HWC[:, ::-1]), quality=90)


ALTERATIONS: tuple[Alteration, ...] = (saved_badly, cropped, lit_otherwise, mirrored)
HARDER: tuple[Alteration, ...] = (*ALTERATIONS, cropped_on_each_side)


def plant(
    originals: Sequence[Pixels], *, seed: int = 0, num_each: int = 50, alterations: Sequence[Alteration] = ALTERATIONS
) -> pd.DataFrame:
    """An index of the originals, then `num_each` copies by each alteration, each of the next original in turn.

    `original` is the row that an image shows, `how` what was done to it. No group is given.
    """
    rng = np.random.default_rng(seed)
    chosen = [(i % len(originals), how) for i, (how, _) in enumerate(product(alterations, range(num_each)))]
    copies = [how(originals[i], rng) for i, how in chosen]
    found = [fingerprint(p) for p in originals] + [fingerprint(imaging.decode(c)) for c in copies]
    index = rows_of(len(found), fingerprint=found)
    index["original"] = [*range(len(originals)), *(i for i, _ in chosen)]
    index["how"] = [""] * len(originals) + [how.__name__ for _, how in chosen]
    return index


def num_joined(cluster_N: npt.ArrayLike, original_N: npt.ArrayLike) -> tuple[int, int]:
    """Of the pairs of images that show one picture and of those that show two, how many are in one cluster."""
    cluster_N, original_N = np.asarray(cluster_N), np.asarray(original_N)
    together = np.triu(cluster_N[:, None] == cluster_N, 1)
    same = original_N[:, None] == original_N
    return int((together & same).sum()), int((together & ~same).sum())
