from __future__ import annotations

import numpy as np
import pandas as pd

from tire_pipeline.validation import drift, label_errors, outliers, probe


def frame(n: int = 400, *, seed: int = 0, groups: int = 100) -> pd.DataFrame:
    """Usable rows in which nothing tells the label."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, n)
    return pd.DataFrame(
        {
            "path": [f"{i}.jpg" for i in range(n)],
            "key": [f"datasets/v1/{i}.jpg" for i in range(n)],
            "label": np.where(group % 2, "good", "bad"),
            "group": [f"g{g}" for g in group],
            "width": 320,
            "height": 240,
            "format": "JPEG",
            "camera": rng.choice(["A", "B"], n),
            "brightness": rng.normal(100, 10, n),
            "contrast": rng.normal(40, 4, n),
            "sharpness": np.exp(rng.normal(5, 0.5, n)),
            "saturation": rng.normal(30, 3, n),
        }
    )


def test_the_probe_stays_near_chance_where_metadata_says_nothing() -> None:
    assert abs((probe.balanced_accuracy(frame(1000)) or 0) - 0.5) < 0.08


def test_the_probe_finds_the_camera_that_gives_the_label_away() -> None:
    told = frame().assign(camera=lambda f: np.where(f["label"] == "good", "A", "B"))
    assert (probe.balanced_accuracy(told) or 0) > 0.95
    darker = frame().assign(brightness=lambda f: f["brightness"] - 40 * (f["label"] == "bad"))
    assert (probe.balanced_accuracy(darker) or 0) > 0.9


def test_the_probe_judges_nothing_by_a_handful_of_groups() -> None:
    assert probe.balanced_accuracy(frame(groups=8)) is None


def test_two_draws_of_one_population_do_not_drift() -> None:
    assert not any(s.notable for s in drift.shifts(frame(seed=1), frame(seed=2)))


def test_darker_pictures_and_another_camera_are_drift_largest_first() -> None:
    now = frame(seed=1).assign(camera="C", brightness=lambda f: f["brightness"] - 15)
    found = [s for s in drift.shifts(now, frame(seed=2)) if s.notable]
    assert [s.column for s in found] == ["camera", "brightness"]
    assert (found[0].now, round(found[0].distance, 6)) == ("C 100%", 1.0)
    assert found[1].before.startswith("median 98.6")


def test_shots_of_few_things_are_no_proof_of_drift() -> None:
    few = frame(seed=1, groups=3).assign(brightness=lambda f: f["brightness"] + 6)
    assert not any(s.notable for s in drift.shifts(few, frame(seed=2)) if s.column == "brightness")


def test_an_outlier_is_named_with_the_range_of_the_others_and_a_constant_camera_makes_none() -> None:
    rows = frame()
    assert outliers.find(rows) == []
    rows.loc[7, "brightness"] = 1.0
    rows.loc[9, "width"] = 3200
    found = outliers.find(rows)
    assert {(o.path, o.column) for o in found} == {
        ("7.jpg", "brightness"),
        ("9.jpg", "megapixels"),
        ("9.jpg", "aspect"),
    }
    dark = next(o for o in found if o.column == "brightness")
    assert dark.value == 1.0
    assert 20 < dark.low < 60 < 140 < dark.high < 180


def test_swapped_labels_are_suspected_first_and_an_ignorant_judge_suspects_nothing() -> None:
    rows, rng = frame(), np.random.default_rng(3)
    signal = (rows["label"] == "good").to_numpy(float)[:, None]
    features = 3 * signal + rng.normal(size=(len(rows), 8))
    swapped = rows.copy()
    wrong = [5, 50, 150, 250]
    swapped.loc[wrong, "label"] = rows.loc[wrong, "label"].map({"good": "bad", "bad": "good"})
    doubter = label_errors.linear_probe(features, swapped)
    assert doubter is not None
    assert doubter.trusted
    found = label_errors.suspects(doubter, swapped)
    assert {f"{i}.jpg" for i in wrong} <= {s.path for s in found[:6]}
    assert all(s.looks_like != s.label for s in found[:4])
    ignorant = label_errors.linear_probe(rng.normal(size=(len(rows), 8)), swapped)
    assert ignorant is not None
    assert label_errors.suspects(ignorant, swapped) == []
