from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.unit.splits.rows import noise_print, rows_of
from tire_pipeline import splits
from tire_pipeline.errors import LeakageError


def shots(*taken: tuple[str, str], **columns: object) -> pd.DataFrame:
    """Images by (camera, time of day), then twenty that were taken at no known time."""
    camera, at = zip(*taken, *[("", "")] * 20, strict=True)
    captured = [f"2026-03-01T{time}" if time else "" for time in at]
    return rows_of(len(camera), camera=camera, captured_at=captured, **columns)


def num_groups(index: pd.DataFrame) -> int:
    """Of the images that were taken at a known time."""
    return int(splits.assign(index, seed=0).together["group"][index["camera"] != ""].nunique())


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([("gate", "10:00:00"), ("gate", "10:01:00")], 1),
        ([("gate", "10:00:00"), ("gate", "10:01:01")], 2),
        ([("gate", "10:00:00"), ("bench", "10:00:00")], 2),
        ([("gate", "10:01:40"), ("gate", "10:00:00"), ("gate", "10:00:50")], 1),  # a chain, out of order
        ([("gate", "10:00:00"), ("bench", "10:00:30"), ("gate", "10:00:59")], 2),
        ([("gate", "10:00:00Z"), ("gate", "11:00:30+01:00")], 1),
        ([("gate", "10:00:00Z"), ("gate", "10:00:30+01:00")], 2),
    ],
)
def test_images_of_one_camera_within_a_minute_belong_together(taken: list[tuple[str, str]], expected: int) -> None:
    assert num_groups(shots(*taken)) == expected


def test_images_of_no_known_camera_or_time_are_not_joined() -> None:
    assert splits.assign(shots(("", "10:00:00"), ("", "10:00:01")), seed=0).together["group"].nunique() == 22
    assert num_groups(shots(("gate", ""), ("gate", ""))) == 2


def test_given_groups_are_not_joined_by_moment() -> None:
    index = shots(("gate", "10:00:00"), ("gate", "10:00:10"))
    index.loc[:1, "group"] = ["tyre-1", "tyre-2"]
    assert num_groups(index) == 2


def test_a_moment_gives_way_to_given_splits() -> None:
    index = shots(("gate", "10:00:00"), ("gate", "10:00:10"), ("gate", "10:05:00"), ("gate", "10:05:10"))
    index.loc[:2, "split"] = ["train", "test", "val"]
    split = splits.assign(index, seed=0)
    assert split.sides[:4].tolist() == ["train", "test", "val", "val"]
    assert num_groups(index) == 3


def test_given_splits_on_both_ends_of_a_chain_of_moments_leave_out_what_is_between() -> None:
    index = shots(("gate", "10:00:00"), ("gate", "10:00:50"), ("gate", "10:01:40"))
    index.loc[[0, 2], "split"] = ["train", "test"]
    split = splits.assign(index, seed=0)
    assert split.sides[:3].tolist() == ["train", splits.LEFT_OUT, "test"]
    assert list(split.left_out) == ["1.jpg"]
    splits.prove(index, split.sides)


def test_what_is_left_out_between_two_images_does_not_part_them() -> None:
    index = shots(("gate", "10:00:00"), ("gate", "10:00:20"), ("gate", "10:00:40"))
    index["fingerprint"] = [noise_print(i) for i in (0, 1, 2, *range(3, 23))]
    index.loc[[4, 5, 6], "fingerprint"] = index.at[3, "fingerprint"]
    for left_out in (1, 3, 4, 5, 6):
        made = splits.assign(index, seed=0, previous={index.at[left_out, "sha256"]: splits.LEFT_OUT})
        assert made.sides[[0, 2]].nunique() == 1
        assert made.together["group"][[0, 2]].nunique() == 1
        assert made.together["cluster"][[i for i in (3, 4, 5, 6) if i != left_out]].nunique() == 1


def test_given_splits_that_tear_near_duplicates_apart_are_named() -> None:
    index = rows_of(30)
    index["fingerprint"] = [noise_print(i) for i in range(30)]
    index.at[7, "fingerprint"] = index.at[4, "fingerprint"]
    index.loc[[4, 7], "split"] = ["train", "test"]
    with pytest.raises(LeakageError, match=r"1 near-duplicate clusters .* in test \(7\.jpg\) and train \(4\.jpg\)"):
        splits.assign(index, seed=0)


def test_old_indexes_without_cameras_and_fingerprints_link_by_group_and_content() -> None:
    index = rows_of(4)
    index.loc[[0, 3], "group"] = "tyre-1"
    index.loc[[1, 3], "sha256"] = "same"
    parts = splits.link(index).parts(np.ones(4, bool))
    assert parts[0] == parts[1] == parts[3] != parts[2]


def test_a_group_goes_by_a_given_name_before_any_other() -> None:
    index = rows_of(30)
    index.loc[:2, ["sha256", "group"]] = "same"
    index.loc[2, "group"] = "zebra"
    assert set(splits.assign(index, seed=0).together["group"][:3]) == {"zebra"}
