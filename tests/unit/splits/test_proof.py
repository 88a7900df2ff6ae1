from __future__ import annotations

import pandas as pd
import pytest

from tests.unit.splits.rows import noise_print, rows_of
from tire_pipeline import splits
from tire_pipeline.errors import LeakageError


@pytest.fixture
def index() -> pd.DataFrame:
    """Thirty images that have nothing in common."""
    return rows_of(30, fingerprint=[noise_print(i) for i in range(30)], camera="", captured_at="")


@pytest.fixture
def sides() -> pd.Series:
    """Image 4 is in train, 7 in test."""
    return (
        pd.Series(["train", "val", "test"] * 10)
        .mask(lambda s: s.index == 4, "train")
        .mask(lambda s: s.index == 7, "test")
    )


WHERE = r"in test \(7\.jpg\) and train \(4\.jpg\)\)\. Give each physical thing one group"


def test_a_split_of_unlike_images_is_proven(index: pd.DataFrame, sides: pd.Series) -> None:
    splits.prove(index, sides)


def test_identical_images_on_two_sides_are_named(index: pd.DataFrame, sides: pd.Series) -> None:
    index.loc[[4, 7], "sha256"] = "cafe"
    with pytest.raises(LeakageError, match=f"1 identical images are on more than one side .*'cafe' {WHERE}"):
        splits.prove(index, sides)


def test_groups_on_two_sides_are_named(index: pd.DataFrame, sides: pd.Series) -> None:
    index.loc[[4, 7], "group"] = "tyre-9"
    with pytest.raises(LeakageError, match=f"1 groups are on more than one side .*'tyre-9' {WHERE}"):
        splits.prove(index, sides)


def test_near_duplicates_on_two_sides_are_named(index: pd.DataFrame, sides: pd.Series) -> None:
    index.at[7, "fingerprint"] = index.at[4, "fingerprint"]
    least = min(index.loc[[4, 7], "sha256"])[:16]
    with pytest.raises(LeakageError, match=f"1 near-duplicate clusters are on .*'{least}' {WHERE}"):
        splits.prove(index, sides)


def test_one_moment_on_two_sides_is_named(index: pd.DataFrame, sides: pd.Series) -> None:
    index.loc[[4, 7], "camera"] = "gate"
    index.loc[[4, 7], "captured_at"] = ["2026-03-01T10:00:00", "2026-03-01T10:00:20"]
    with pytest.raises(LeakageError, match=f"1 groups joined by likeness or moment are on .*{WHERE}"):
        splits.prove(index, sides)


def test_clusters_and_groups_that_are_known_are_believed(index: pd.DataFrame, sides: pd.Series) -> None:
    together = pd.DataFrame({"group": index["group"], "cluster": index["group"]})
    splits.prove(index, sides, together=together)
    together.loc[[4, 7], "cluster"] = "c1"
    with pytest.raises(LeakageError, match=f"near-duplicate clusters .*'c1' {WHERE}"):
        splits.prove(index, sides, together=together)


def test_what_is_left_out_tears_nothing_apart(index: pd.DataFrame, sides: pd.Series) -> None:
    index.loc[[4, 7], ["sha256", "group"]] = ["cafe", "tyre-9"]
    index.at[7, "fingerprint"] = index.at[4, "fingerprint"]
    splits.prove(index, sides.mask(sides.index == 7, splits.LEFT_OUT))


def test_all_that_is_torn_is_counted(index: pd.DataFrame, sides: pd.Series) -> None:
    index["group"] = [f"tyre-{i // 3}" for i in range(30)]
    with pytest.raises(LeakageError, match="10 groups are on more than one side"):
        splits.prove(index, sides)
