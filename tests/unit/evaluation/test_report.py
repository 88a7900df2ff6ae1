from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.unit.evaluation.conftest import COMBINED, MakeAnswers
from tests.unit.evaluation.test_card import CARD
from tire_pipeline import metrics
from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import InputError
from tire_pipeline.evaluation import report
from tire_pipeline.evaluation.answers import Answers, as_rows
from tire_pipeline.evaluation.by_label import judged, metrics_of
from tire_pipeline.evaluation.card import as_markdown
from tire_pipeline.evaluation.pictures import draw_all
from tire_pipeline.evaluation.robustness import CONDITIONS, robustness
from tire_pipeline.metrics import Costs, Scored


def test_the_record_has_every_figure_and_says_how_its_interval_was_made(
    bundle: Bundle, make_answers: MakeAnswers, tmp_path: Path
) -> None:
    answers = make_answers()
    record = report.measure(bundle, answers)
    names = metrics.names(has_positive=True)
    assert set(record["intervals"]) == set(names)
    assert record["intervals"]["recall"] == "Wilson"
    assert record["metrics"]["accuracy"] == pytest.approx(54 / 60)
    assert sum(map(sum, record["confusion"])) == record["num_images"] == 60
    assert [c["class"] for c in record["per_class"]] == bundle.classes
    assert record["ms_per_image"] > 0
    report.write(record, answers, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["num_positive"] == record["num_positive"]


def test_the_operating_point_counts_what_a_person_would_and_would_not_see(
    bundle: Bundle, make_answers: MakeAnswers
) -> None:
    answers = make_answers()
    found = report.measure(bundle, answers)["operating_point"]
    wrong = answers.rows["label"] != answers.rows["predicted"]
    reviewed = answers.rows["decision"] == "review"
    assert found["num_mistakes"] == found["num_missed"] + found["num_alarms"] == wrong.sum() == 6
    assert found["num_mistakes_not_reviewed"] == (wrong & ~reviewed).sum()
    assert (found["cost_miss"], found["threshold"], found["review_band"]) == (20.0, 0.5, [0.4, 0.6])


def test_what_combines_the_positive_class_is_positive_and_other_mistakes_are_neither_misses_nor_alarms(
    combined: tuple[Bundle, Answers], tmp_path: Path
) -> None:
    record = report.measure(*combined)
    assert record["num_positive"] == 20
    found = record["operating_point"]
    assert (found["num_mistakes"], found["num_missed"], found["num_alarms"]) == (4, 1, 1)
    assert record["metrics"]["recall"] == record["metrics"]["condition/recall"] == pytest.approx(19 / 20)
    assert record["metrics"]["condition/accuracy"] == pytest.approx(38 / 40)
    assert record["metrics"]["view/accuracy"] == pytest.approx(38 / 40)
    recalls = {s["name"]: s["recall"] for s in record["slices"] if s["name"].startswith("view=")}
    assert recalls == pytest.approx({"view=a": 0.9, "view=b": 1.0})
    text = as_markdown(replace(CARD, classes=tuple(COMBINED)), record)
    assert "is 1 missed, 1 of them without a person's look, and 1 false alarms, beside 2 of another kind;" in text
    assert "Of condition alone that is 1 missed and 1 false alarms." in text
    assert "| recall of condition | 0.950 |" in text and "| balanced accuracy of view | 0.950 |" in text
    draw_all(combined[1], ["$a_$", *COMBINED[1:]], tmp_path, positive_class="defective")  # no formula, but a name
    assert (tmp_path / "pr_roc.png").is_file()


def test_a_defect_under_the_wrong_label_is_missed_and_costs_what_both_mistakes_cost() -> None:
    classes = [f"tread={t};wall={w}" for t in ("defective", "good") for w in ("defective", "good")]
    y_N = np.repeat([1, 2, 3], 10)  # treads, walls, and nothing
    given_N = np.where(y_N == 2, 1, y_N)  # every defective wall is called a defective tread
    costs = Costs(miss=20, alarm=1)
    scored = Scored(y_N, np.eye(4)[given_N], given_N, (0, 1, 2), costs)
    found = metrics_of(scored, np.arange(30), judged(scored, classes, positive_class="defective"))
    assert (found["tread/recall"], found["wall/recall"]) == (1.0, 0.0)
    assert (found["recall"], found["recall_high"]) == (0.0, found["wall/recall_high"])
    assert found["cost"] == pytest.approx(10 * (20 + 1) / 30)
    assert found["cost_low"] < found["cost"] < found["cost_high"] < 21


def test_a_model_that_answers_with_no_number_is_refused(bundle: Bundle) -> None:
    rows = pd.DataFrame({"label": ["good", "good"]})
    with pytest.raises(InputError, match="answers 1 of 2 images with no number"):
        as_rows(bundle, rows, np.array([[0.5, 0.5], [np.nan, np.nan]]))


def test_figures_that_are_no_numbers_become_null(bundle: Bundle, make_answers: MakeAnswers, tmp_path: Path) -> None:
    answers = make_answers()
    good = answers.where((answers.rows["label"] == "good").to_numpy())
    report.write(report.measure(bundle, good), good, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["metrics"]["auroc"] is None


def test_mistakes_are_listed_by_side_the_most_confident_first(
    bundle: Bundle, make_answers: MakeAnswers, tmp_path: Path
) -> None:
    answers = make_answers(side=["train"] * 20 + ["val"] * 20 + ["test"] * 20)
    report.write(report.measure(bundle, answers), answers, tmp_path)
    listed = {side: pd.read_csv(tmp_path / f"mistakes_{side}.csv") for side in ("train", "val", "test")}
    columns = ["path", "true_class", "predicted_class", "probability", "decision", "ms"]
    assert all(list(frame) == columns and len(frame) == 2 for frame in listed.values())
    together = pd.concat(listed.values())
    assert (together["true_class"] != together["predicted_class"]).all()
    assert all(frame["probability"].is_monotonic_decreasing for frame in listed.values())
    kept = pd.read_parquet(tmp_path / "predictions.parquet")
    assert len(kept) == 60 and {"p_good", "p_defective", "decision", "side"} <= set(kept)
    assert (kept[["p_good", "p_defective"]].sum(axis=1) - 1).abs().max() < 1e-6


def test_each_condition_changes_the_pictures_and_the_dark_ones_cost_a_threshold_on_colour(
    bundle: Bundle, make_answers: MakeAnswers
) -> None:
    answers = make_answers(wrong=1000)
    found = robustness(bundle, answers)
    assert set(found) == set(CONDITIONS) == {"blur", "dark", "noise", "jpeg_30", "turned_90"}
    plain = metrics.with_intervals(answers.scored, answers.groups)
    assert found["turned_90"] == pytest.approx(plain)  # one colour looks the same from every side
    assert found["dark"]["log_loss"] > plain["log_loss"] + 0.05
    assert found["noise"] == robustness(bundle, answers)["noise"]
    assert found["noise"]["log_loss"] != plain["log_loss"]
