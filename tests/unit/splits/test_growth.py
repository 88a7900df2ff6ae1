"""Five versions of a project, each holding the one before it, its rows in another order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from tests.unit.splits.rows import noise_print, tyres
from tire_pipeline import splits
from tire_pipeline.splits.memory import assign_and_remember
from tire_pipeline.stores.objects import ObjectStore

NUM_VERSIONS = 5
NUM_NEW = 30  # tyres in each version, three shots each
SEED = 7


def version(number: int, before: pd.DataFrame, sides: pd.Series) -> pd.DataFrame:
    """`before` with new tyres, new shots of old ones, and new images that hang together with two sides.

    `sides` are those of `before`; the images that join two of them have paths that begin with "bridge".
    """
    new = tyres(NUM_NEW, first=100 * number)
    new["fingerprint"] = [noise_print(1000 * number + i) for i in range(len(new))]
    if not len(before):
        return new
    rng = np.random.default_rng(number)
    test, train = (before[sides == side].sample(6, random_state=number) for side in ("test", "train"))
    shots = new[:12].assign(group=[*test["group"], *train["group"]])
    # A near-duplicate of a test image that says it is of a tyre in train, and the other way round.
    direct = new[12:18].assign(group=train["group"].to_numpy(), fingerprint=test["fingerprint"].to_numpy())
    other = new[18:24].assign(group=test["group"].to_numpy(), fingerprint=train["fingerprint"].to_numpy())
    again = (
        before[sides != splits.LEFT_OUT]
        .sample(3, random_state=number)
        .assign(path=[f"again-{number}-{i}.jpg" for i in range(3)])
    )
    bridges = pd.concat([direct, other])
    bridges["path"] = "bridge-" + bridges["path"]
    grown = pd.concat([before, shots, bridges, again, new[24:]], ignore_index=True)
    return grown.sample(frac=1, random_state=rng.integers(2**31)).reset_index(drop=True)


def grow(store: ObjectStore) -> list[tuple[pd.DataFrame, splits.Split]]:
    index, sides, found = pd.DataFrame(), pd.Series(dtype=object), []
    for number in range(NUM_VERSIONS):
        index = version(number, index, sides)
        split = assign_and_remember(store, index, project="tire", seed=SEED)
        splits.prove(index, split.sides)
        sides = split.sides
        found.append((index, split))
    return found


@pytest.fixture
def versions(store: ObjectStore) -> list[tuple[pd.DataFrame, splits.Split]]:
    return grow(store)


def moves(versions: list[tuple[pd.DataFrame, splits.Split]]) -> pd.DataFrame:
    """How many images went from one side (rows) to another (columns) in any later version."""
    at = [pd.Series(split.sides.to_numpy(), index=index["path"].to_numpy()) for index, split in versions]
    steps = [pd.DataFrame({"before": old, "after": new[old.index]}) for old, new in pairwise(at)]
    every = pd.concat(steps)
    return pd.crosstab(every["before"], every["after"])


def test_no_image_changes_its_side_and_none_moves_from_test_to_train(
    versions: list[tuple[pd.DataFrame, splits.Split]],
) -> None:
    moved = moves(versions)
    assert moved.loc["test", "test"] > 50
    assert moved.loc["test", "train"] == 0
    assert moved.to_numpy().sum() == np.diag(moved.to_numpy()).sum()


def test_new_images_that_join_two_sides_are_left_out_with_the_reason(
    versions: list[tuple[pd.DataFrame, splits.Split]],
) -> None:
    before: set[str] = set()
    for index, split in versions:
        bridges = set(index["path"][index["path"].str.startswith("bridge")])
        assert set(split.left_out) == set(index["path"][split.sides == splits.LEFT_OUT]) == bridges
        assert all("images on different sides of the split" in split.left_out[p] for p in bridges - before)
        assert all("left out of an earlier split" in split.left_out[p] for p in before)
        before = set(split.left_out)
    assert before


def test_new_shots_of_a_tyre_go_to_its_side(versions: list[tuple[pd.DataFrame, splits.Split]]) -> None:
    for index, split in versions:
        on = split.sides != splits.LEFT_OUT
        assert split.sides[on].groupby(index["group"][on]).nunique().max() == 1


def test_every_version_has_its_shares(versions: list[tuple[pd.DataFrame, splits.Split]]) -> None:
    for index, split in versions:
        on = split.sides != splits.LEFT_OUT
        shares = pd.crosstab(index["label"][on], split.sides[on], normalize="index")
        for side, fraction in splits.FRACTIONS.items():
            assert shares[side].to_numpy() == pytest.approx(fraction, abs=0.12)


def test_the_same_version_in_another_order_has_the_same_split(
    store: ObjectStore, versions: list[tuple[pd.DataFrame, splits.Split]]
) -> None:
    index, split = versions[-1]
    turned = index.sample(frac=1, random_state=5)
    again = assign_and_remember(store, turned, project="tire", seed=SEED)
    assert again.sides.sort_index().equals(split.sides)
    assert splits.digest(turned, again.sides) == splits.digest(index, split.sides)
