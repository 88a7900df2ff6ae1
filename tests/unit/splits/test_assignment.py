from __future__ import annotations

import pandas as pd
import pytest

from tests.unit.splits.rows import rows_of, tyres
from tire_pipeline import splits
from tire_pipeline.errors import DataRefused, LeakageError


def test_sides_have_their_shares_over_many_groups() -> None:
    shares = splits.assign(rows_of(4000), seed=0).sides.value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx(splits.FRACTIONS, abs=0.025)


def test_every_label_has_its_shares_where_groups_allow() -> None:
    index = tyres(40).assign(label=["good"] * 90 + ["defective"] * 30)
    for seed in range(20):
        split = splits.assign(index, seed=seed)
        shares = pd.crosstab(index["label"], split.sides, normalize="index")
        for side, fraction in splits.FRACTIONS.items():
            assert shares[side].to_numpy() == pytest.approx(fraction, abs=0.1)


def test_no_group_is_on_two_sides() -> None:
    index = tyres(200)
    sides = splits.assign(index, seed=0).sides
    assert sides.groupby(index["group"]).nunique().max() == 1
    splits.prove(index, sides)


def test_the_seed_alone_changes_the_split() -> None:
    index = tyres(200)
    first, second, other = (splits.digest(index, splits.assign(index, seed=s).sides) for s in (0, 0, 1))
    assert first == second != other


def test_the_order_of_rows_changes_neither_the_split_nor_its_digest() -> None:
    index = tyres(50)
    turned = index.sample(frac=1, random_state=0)
    one, other = (splits.assign(rows, seed=0).sides for rows in (index, turned))
    assert other.sort_index().equals(one)
    assert splits.digest(turned, other) == splits.digest(index, one)


def test_groups_that_share_an_identical_image_are_one() -> None:
    index = tyres(40)
    index.loc[3, "sha256"] = index.loc[0, "sha256"]
    index.loc[6, "sha256"] = index.loc[4, "sha256"]
    split = splits.assign(index, seed=0)
    assert set(split.together["group"][:9]) == {"tyre-0"}
    assert split.sides[:9].nunique() == 1


def test_given_splits_are_kept_and_the_rest_follows_its_group() -> None:
    index = tyres(40)
    index.loc[index["group"].isin(["tyre-3", "tyre-4"]), "split"] = "test"
    index.loc[index["group"] == "tyre-5", "split"] = ["val", "", ""]
    sides = splits.assign(index, seed=0).sides
    assert set(sides[9:15]) == {"test"}
    assert set(sides[15:18]) == {"val"}


@pytest.mark.parametrize("what", ["groups", "identical images"])
def test_given_splits_that_tear_something_apart_are_named(what: str) -> None:
    index = tyres(40)
    index.loc[15:17, "split"] = ["train", "train", "test"]
    said = r"'tyre-5' in test \(17\.jpg\) and train \(15\.jpg\)"
    if what == "identical images":
        index.loc[15:17, "group"] = ["x", "y", "z"]
        index.loc[16:17, "sha256"] = "same"
        said = r"'same' in test \(17\.jpg\) and train \(16\.jpg\)"
    with pytest.raises(LeakageError, match=f"1 {what} are on more than one side.*first: {said}.*Give each physical"):
        splits.assign(index, seed=0)


def test_a_class_that_one_side_would_lack_is_named() -> None:
    index = tyres(40)
    index.loc[index["group"] == "tyre-7", "label"] = "rare"
    with pytest.raises(DataRefused, match=r"split would hold no image of 'rare': there are too few groups"):
        splits.assign(index, seed=0)


@pytest.mark.parametrize("seed", range(40))
def test_a_class_of_three_groups_is_on_every_side(seed: int) -> None:
    index = rows_of(24, label=["good"] * 12 + ["bad"] * 12)
    index["group"] = [f"{label}{i % 3}" for i, label in enumerate(index["label"])]
    sides = splits.assign(index, seed=seed).sides
    splits.prove(index, sides)
    assert pd.crosstab(index["label"], sides).to_numpy().min() == 4


def test_a_group_of_over_a_fifth_of_the_images_is_warned_about() -> None:
    index = tyres(40)
    assert splits.assign(index, seed=0).warnings == []
    index.loc[index.index < 24, "group"] = "conveyor"
    assert splits.assign(index, seed=0).warnings == []  # a fifth, not more
    index.loc[index.index < 27, "group"] = "conveyor"
    (said,) = splits.assign(index, seed=0).warnings
    assert said.startswith("The group 'conveyor' holds 27 of 120 images (22%), all on one side.")
    assert "give each thing its own group in labels.csv" in said


def test_a_group_that_was_joined_until_it_swallowed_over_a_fifth_is_warned_about() -> None:
    index = tyres(40)
    index.loc[list(range(0, 30, 3)), "sha256"] = "the same picture"  # one shot of each of ten tyres
    (said,) = splits.assign(index, seed=0).warnings
    assert said.startswith("The group 'tyre-0' holds 30 of 120 images (25%)")


def test_the_summary_counts_each_class_on_each_side() -> None:
    index = tyres(40)
    found = splits.summary(index, splits.assign(index, seed=0))
    assert sum(found["counts"].values()) == 120
    assert {label: sum(sides.values()) for label, sides in found["classes"].items()} == {"good": 60, "defective": 60}
    assert (found["left_out"], found["warnings"]) == ({}, [])
