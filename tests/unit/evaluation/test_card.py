from __future__ import annotations

import re
from dataclasses import replace

from tests.unit.evaluation.conftest import MakeAnswers
from tire_pipeline import metrics
from tire_pipeline.bundle import Bundle
from tire_pipeline.evaluation import report
from tire_pipeline.evaluation.card import Card, as_html, as_markdown
from tire_pipeline.evaluation.robustness import robustness

CARD = Card("tyres", "cnn", ("defective", "good"), {"train": 700, "val": 150, "test": 60}, {"snapshot": "ab12"})


def test_the_card_has_every_metric_with_its_interval_and_how_it_was_made(
    bundle: Bundle, make_answers: MakeAnswers
) -> None:
    record = report.measure(bundle, make_answers())
    text = as_markdown(CARD, record)
    for name in set(metrics.names(has_positive=True)) - {"auroc", "auprc", "ece", "cost", "brier", "f1_macro"}:
        value, low, high = (record["metrics"][name + end] for end in ("", "_low", "_high"))
        shown = name.replace("_", " ").replace("f1", "F1")
        row = f"| {shown} | {value:.3f} | {low:.3f} to {high:.3f} | {record['intervals'][name]} |"
        assert row in text
    assert all(f"| {name} | " in text for name in ("AUROC", "AUPRC", "ECE", "cost an image", "Brier score", "F1 macro"))
    assert "| snapshot | ab12 |" in text
    assert "| train | 700 | the weights were fitted on them |" in text
    assert "Chosen on validation images, where a miss costs 20 and an alarm 1, with no floor of the recall." in text


def test_the_card_counts_all_images_and_says_of_how_many_the_answers_are_kept(
    bundle: Bundle, make_answers: MakeAnswers
) -> None:
    record = report.measure(bundle, make_answers())
    cut = as_markdown(replace(CARD, answered={"train": 500, "val": 150, "test": 60}), record)
    assert "| train | 700 |" in cut and "listed for the first 500 of 700 train images." in cut
    assert "listed for" not in as_markdown(replace(CARD, answered=CARD.sides), record)


def test_without_costs_the_card_claims_none(bundle: Bundle, make_answers: MakeAnswers) -> None:
    record = report.measure(replace(bundle, costs=None), make_answers())
    assert "where one class counts as much as the other, with no floor" in as_markdown(CARD, record)


def test_the_limits_name_what_is_low_what_is_few_and_what_was_not_tried(
    bundle: Bundle, make_answers: MakeAnswers
) -> None:
    answers = make_answers()
    record = report.measure(bundle, answers)
    text = as_markdown(CARD, record)
    assert "Too few images to tell: camera=left." in text
    assert "It was not tried under blur" in text
    tried = as_markdown(CARD, {**record, "robustness": robustness(bundle, answers)})
    assert "| jpeg 30 |" in tried and "It was not tried" not in tried
    worst = min((s for s in record["slices"] if not s["small"]), key=lambda s: s["accuracy"])
    assert f"It is worst on {worst['name']}" in text


def test_tables_are_whole_and_the_page_needs_nothing_from_elsewhere(bundle: Bundle, make_answers: MakeAnswers) -> None:
    record = report.measure(bundle, make_answers())
    tables = re.findall(r"(?:^\|.*\n)+", as_markdown(CARD, record), flags=re.MULTILINE)
    assert len(tables) == 5
    for table in tables:
        assert len({row.count("|") for row in table.splitlines()}) == 1
    page = as_html(CARD, record)
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page


def test_what_comes_from_outside_is_escaped(bundle: Bundle, make_answers: MakeAnswers) -> None:
    answers = make_answers(view=["<script>", "tread"] * 30)
    page = as_html(CARD, report.measure(bundle, answers))
    assert "view=&lt;script&gt;" in page and "view=<script>" not in page
