from __future__ import annotations

import pytest

from tests.unit.evaluation.conftest import MakeAnswers
from tire_pipeline import metrics
from tire_pipeline.evaluation.slices import slices


def test_every_column_that_divides_the_images_makes_slices_and_no_other(make_answers: MakeAnswers) -> None:
    answers = make_answers(view=["tread", "sidewall", ""] * 20, serial=[f"no {i}" for i in range(60)], line=["a"] * 60)
    found = {s.name: s for s in slices(answers)}
    assert {n.split("=")[0] for n in found} == {"camera", "view", "brightness", "contrast", "sharpness"}
    assert found["camera=left"].num_images == 15 and found["camera=left"].small
    assert found["camera=right"].num_images == 45 and not found["camera=right"].small
    assert [found[f"brightness={part}"].num_images for part in ("low", "middle", "high")] == [20] * 3


def test_other_columns_of_labels_csv_make_slices_and_come_before_what_files_say(make_answers: MakeAnswers) -> None:
    said = ['{"view":"tread","camera":"north"}', '{"view":"side","width":"wide"}', ""] * 20
    found = {s.name: s.num_images for s in slices(make_answers(columns=said))}
    assert {"view=tread": 20, "view=side": 20, "camera=north": 20, "width=wide": 20}.items() <= found.items()
    assert "camera=left" not in found
    assert not [name for name in found if name.startswith("columns=")]


def test_a_column_of_many_values_makes_thirds_of_numbers_and_slices_of_those_that_are_many(
    make_answers: MakeAnswers,
) -> None:
    pressure = [str(2 + i / 100) for i in range(57)] + [""] * 3
    operator = ["ann"] * 22 + [f"temp {i}" for i in range(38)]
    found = {s.name: s.num_images for s in slices(make_answers(pressure=pressure, operator=operator))}
    assert [found[f"pressure={part}"] for part in ("low", "middle", "high")] == [19, 19, 19]
    assert [name for name in found if name.startswith("operator=")] == ["operator=ann"]


def test_a_slice_has_the_figures_of_its_images(make_answers: MakeAnswers) -> None:
    answers = make_answers()
    (left,) = (s for s in slices(answers) if s.name == "camera=left")
    own = metrics.point(answers.where((answers.rows["camera"] == "left").to_numpy()).scored)
    assert (left.accuracy, left.recall) == (pytest.approx(own["accuracy"]), pytest.approx(own["recall"]))
    assert (left.accuracy_low, left.accuracy_high) == pytest.approx(metrics.wilson(13, 15))


def test_sizes_and_large_groups_are_slices_too(make_answers: MakeAnswers) -> None:
    groups = ["line-1"] * 25 + [f"tyre-{i}" for i in range(35)]
    names = {s.name for s in slices(make_answers(width=[16, 32] * 30, group=groups))}
    assert {"resolution=16×16", "resolution=32×16", "group=line-1"} <= names
    assert len([n for n in names if n.startswith("group=")]) == 1
    few = [s for s in slices(make_answers(group=[f"place-{i % 6}" for i in range(60)])) if s.name.startswith("group=")]
    assert [(s.num_images, s.small) for s in few] == [(10, True)] * 6
    assert (few[1].accuracy_low, few[1].accuracy_high) == pytest.approx(metrics.wilson(10 * few[1].accuracy, 10))
    many = {s.name for s in slices(make_answers(width=range(100, 160)))}
    assert {"resolution=low", "resolution=middle", "resolution=high"} <= many


def test_a_slice_without_a_positive_image_has_no_recall(make_answers: MakeAnswers) -> None:
    answers = make_answers()
    labels = answers.rows["label"]
    found = {s.name: s for s in slices(make_answers(view=["a" if label == "good" else "b" for label in labels]))}
    assert found["view=a"].recall is None
    assert found["view=b"].recall is not None
