from __future__ import annotations

import pandas as pd
import pytest

from tire_pipeline import splits
from tire_pipeline.errors import DataRefused, LeakageError


def frame(num_groups: int = 200, *, shots: int = 3, start: int = 0) -> pd.DataFrame:
    rows = [
        {"path": f"{g}-{s}.jpg", "sha256": f"{g}-{s}", "label": "ab"[g % 2], "group": f"tyre-{g}", "split": ""}
        for g in range(start, start + num_groups)
        for s in range(shots)
    ]
    return pd.DataFrame(rows)


def test_sides_have_their_shares_over_many_groups() -> None:
    index = frame(4000, shots=1)
    shares = splits.assign(index, seed=0).value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx(splits.FRACTIONS, abs=0.025)


def test_no_group_is_on_two_sides() -> None:
    index = frame()
    sides = splits.assign(index, seed=0)
    assert sides.groupby(index["group"]).nunique().max() == 1
    splits.prove(index, sides)


def test_images_keep_their_side_when_the_dataset_grows() -> None:
    old, grown = frame(100), frame(300)
    before = pd.Series(splits.assign(old, seed=0).tolist(), index=old["path"])
    after = pd.Series(splits.assign(grown.iloc[::-1], seed=0).tolist(), index=grown["path"].iloc[::-1])
    assert after[before.index].equals(before)


def test_the_seed_alone_changes_the_split() -> None:
    index = frame()
    first, second, other = (splits.assign(index, seed=s) for s in (0, 0, 1))
    assert splits.digest(index, first) == splits.digest(index, second) != splits.digest(index, other)


def test_the_digest_does_not_depend_on_the_order_of_rows() -> None:
    index = frame()
    sides = splits.assign(index, seed=0)
    turned = index.iloc[::-1]
    assert splits.digest(turned, sides.iloc[::-1]) == splits.digest(index, sides)


def test_groups_that_share_an_identical_image_are_one() -> None:
    assert splits.connected_groups(["b", "a", "c", "d"], ["1", "1", "2", "3"]) == ["a", "a", "c", "d"]
    chain = splits.connected_groups(["d", "c", "c", "b", "b", "a"], ["1", "1", "2", "2", "3", "3"])
    assert set(chain) == {"a"}
    index = frame()
    index.loc[::3, "sha256"] = "the same picture"  # one shot of every tyre: all hang together
    with pytest.raises(DataRefused, match="too few groups"):
        splits.assign(index, seed=0)


def test_given_splits_are_kept_and_the_rest_follows_its_group() -> None:
    index = frame()
    free = splits.assign(index, seed=0)
    given = (index["group"] == "tyre-3") | (index["group"] == "tyre-4")
    index.loc[given, "split"] = "test"
    sides = splits.assign(index, seed=0)
    assert set(sides[given]) == {"test"}
    assert sides[~given].equals(free[~given])


@pytest.mark.parametrize(
    ("column", "said"),
    [("group", "1 groups .*first: 'tyre-5' in test and train"), ("sha256", "1 identical images .*first: 'same'")],
)
def test_given_splits_that_tear_something_apart_are_named(column: str, said: str) -> None:
    index = frame()
    index.loc[index["group"] == "tyre-5", "split"] = ["train", "train", "test"]
    if column == "sha256":
        torn = index.index[index["group"] == "tyre-5"]
        index.loc[torn, "group"] = ["x", "y", "z"]
        index.loc[torn[1:], "sha256"] = "same"
    with pytest.raises(LeakageError, match=said):
        splits.prove(index, splits.assign(index, seed=0))


def test_a_class_that_one_side_would_lack_is_named() -> None:
    index = frame(40)
    index.loc[index["group"] == "tyre-7", "label"] = "rare"
    with pytest.raises(DataRefused, match=r"split would hold no image of 'rare': there are too few groups"):
        splits.assign(index, seed=0)


@pytest.mark.parametrize("seed", range(40))
def test_a_class_of_three_groups_is_on_every_side(seed: int) -> None:
    index = pd.DataFrame(
        {
            "group": [f"{label}{i % 3}" for label in ("good", "bad") for i in range(12)],
            "label": [label for label in ("good", "bad") for _ in range(12)],
            "sha256": [f"{i:064x}" for i in range(24)],
            "split": "",
        }
    )
    sides = splits.assign(index, seed=seed)
    splits.prove(index, sides)
    assert {(label, side) for label, side in zip(index["label"], sides, strict=True)} == {
        (label, side) for label in ("good", "bad") for side in splits.SIDES
    }
