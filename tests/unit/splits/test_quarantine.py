from __future__ import annotations

import pytest

from tests.unit.splits.rows import tyres
from tire_pipeline import splits
from tire_pipeline.errors import LeakageError

A, B = "tyre-0", "tyre-1"  # rows 0..2 and 3..5


def test_a_new_image_that_joins_two_sides_is_left_out_and_nothing_else() -> None:
    index = tyres(40)
    index.loc[[2, 4], "sha256"] = "same"  # a new file, filed under both tyres
    previous = dict.fromkeys(index["sha256"][[0, 1]], "train") | dict.fromkeys(index["sha256"][[3, 5]], "test")
    made = splits.assign(index, seed=0, previous=previous)
    splits.prove(index, made.sides)
    assert set(made.left_out) == {"2.jpg", "4.jpg"}
    assert made.sides[[0, 1, 3, 5]].tolist() == ["train", "train", "test", "test"]


def test_new_images_that_join_two_sides_through_one_another_are_left_out() -> None:
    index = tyres(40)
    # Tyres 0 and 1 have sides; 2 is new, and one shot of it is a shot of each of them.
    index.loc[[2, 6], "sha256"], index.loc[[5, 7], "sha256"] = "first", "second"
    previous = {index.at[0, "sha256"]: "train", index.at[3, "sha256"]: "test", "first": "train", "second": "test"}
    made = splits.assign(index, seed=0, previous=previous)
    splits.prove(index, made.sides)
    assert made.sides[[0, 2, 3, 5]].tolist() == ["train", "train", "test", "test"]
    assert "8.jpg" in made.left_out


@pytest.mark.parametrize(("sides", "kept"), [(("train", "test"), B), (("test", "train"), A), (("val", "train"), A)])
def test_of_two_sides_that_turn_out_to_be_one_thing_the_weaker_gives_up(sides: tuple[str, str], kept: str) -> None:
    index = tyres(40)
    was = index["group"].copy()
    index.loc[was == B, "group"] = A  # labels.csv now says that both are one tyre
    previous = dict(zip(index["sha256"][:6], was[:6].map(dict(zip((A, B), sides, strict=True))), strict=True))
    made = splits.assign(index, seed=0, previous=previous)
    splits.prove(index, made.sides)
    assert set(made.sides[was == kept]) == {sides[(A, B).index(kept)]}
    assert set(made.left_out) == set(index["path"][:6][was != kept])


def test_a_side_that_labels_give_is_not_given_up_even_for_a_test_image() -> None:
    index = tyres(40)
    index.loc[0, "split"] = "train"
    made = splits.assign(index, seed=0, previous={index.at[1, "sha256"]: "test"})
    splits.prove(index, made.sides)
    assert made.sides[0] == "train"
    assert "1.jpg" in made.left_out


def test_what_was_left_out_stays_left_out_when_the_reason_is_gone() -> None:
    index = tyres(40)
    made = splits.assign(index, seed=0, previous={index.at[1, "sha256"]: splits.LEFT_OUT})
    assert made.sides[1] == splits.LEFT_OUT
    assert made.sides[0] == made.sides[2] != splits.LEFT_OUT
    assert "earlier split" in made.left_out["1.jpg"]


def test_an_image_that_was_left_out_can_be_given_a_side_in_labels() -> None:
    index = tyres(40)
    index.loc[1, "split"] = "val"
    made = splits.assign(index, seed=0, previous={index.at[1, "sha256"]: splits.LEFT_OUT})
    assert (made.sides[1], made.left_out) == ("val", {})


def test_labels_move_an_image_that_had_another_side() -> None:
    index = tyres(40)
    index.loc[:2, "split"] = "test"
    previous = dict.fromkeys(index["sha256"][:3], "train")
    made = splits.assign(index, seed=0, previous=previous)
    assert (set(made.sides[:3]), made.left_out) == ({"test"}, {})


def test_given_sides_that_contradict_one_another_are_refused_not_left_out() -> None:
    index = tyres(40)
    index.loc[:1, "split"] = ["train", "test"]
    with pytest.raises(LeakageError, match="'tyre-0' in test"):
        splits.assign(index, seed=0)
