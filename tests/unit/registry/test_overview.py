from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from tire_pipeline.registry.overview import Model, Overview, as_html

BAD = "<script>alert(1)</script>"


def row(**given: Any) -> dict[str, Any]:
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    told = {"at": at, "actor": "pipeline", "action": "produced", "from_version": 1, "to_version": 2, "reason": "better"}
    return {**told, "run_key": "dataset__v1__ab", **given}


def model(**given: Any) -> Model:
    metrics = {"test/recall": 0.9, "test/recall_low": 0.8, "test/recall_high": 0.95, "train/loss": 0.1}
    told = {
        "aliases": ("production",),
        "version": 2,
        "candidate": "cnn",
        "dataset_version": "v1",
        "run_url": "http://m/#/r",
    }
    return Model(**{**told, "metrics": metrics, "moved": row(), **given})


def data(**given: Any) -> dict[str, Any]:
    counts = {"num_images": 9, "num_usable": 8, "num_quarantined": 1, "classes": {"good": 5, "bad": 3}}
    told = {"version": "v1", "snapshot": "0" * 64, "ok": True, "warnings": ["dim"], "verdicts": [], **counts}
    return {**told, **given}


def test_the_page_says_what_serves_since_when_and_why_and_what_happened() -> None:
    text = as_html(Overview("tyres", {"MLflow": "http://m"}, [model()], [row()], data(), "http://m/#/d"))
    assert "version 2, trained on v1" in text
    assert "since 2026-01-02 03:04 UTC, by pipeline:</span> better" in text
    assert re.search(r"recall</td><td class=\"n\">0\.900</td>.*0\.800 to 0\.950", text)
    assert "train/loss" not in text
    assert 'src="card/2"' in text and f'src="data/{"0" * 64}"' in text
    assert "1 → 2" in text and "../dags/train_and_promote/runs/dataset__v1__ab" in text
    assert "8 of 9 images" in text and "dim" in text


def test_what_people_and_files_said_is_escaped_everywhere() -> None:
    text = as_html(
        Overview(
            BAD,
            {BAD: "http://m"},
            [model(candidate=BAD, dataset_version=BAD, aliases=(BAD,), moved=row(reason=BAD, actor=BAD))],
            [row(reason=BAD, actor=BAD, action=BAD, run_key=BAD)],
            data(version=BAD, classes={BAD: 1}, warnings=[BAD]),
            "http://m",
            [BAD],
        )
    )
    assert "<script" not in text
    assert text.count("<iframe sandbox ") == text.count("<iframe")


def test_an_empty_project_and_what_cannot_be_read_are_said() -> None:
    text = as_html(Overview("tyres", {}, problems=["MLflow did not answer"]))
    assert "No model is in staging or in production yet" in text
    assert "MLflow did not answer" in text
