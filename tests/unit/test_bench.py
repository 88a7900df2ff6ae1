"""The comparison of loaders: its arithmetic, and that it runs. What comes out is for people to read, not for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tire_pipeline.bench import loader
from tire_pipeline.bench.loader import DESIGNS, OURS, PEERS
from tire_pipeline.bench.measure import Clock, Run, Training, as_json, rotated, rows_of, training_rows
from tire_pipeline.bench.training import BF16_LOOPS, LOOPS


def test_every_round_has_every_design_once_and_begins_with_another() -> None:
    rounds = list(rotated(["a", "b", "c"], 4))
    assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_rows_are_medians_with_the_spread_and_the_ratio_to_naive() -> None:
    naive = [Run(images=100, cpu_s=s, seconds=2 * s) for s in (0.4, 0.5, 0.9)]
    ours = [Run(images=100, cpu_s=0.01, seconds=0.02, device_cpu_s=0.04)]
    rows = {row.design: row for row in rows_of({"naive": naive, "warm_crop": ours, "webdataset": []})}
    assert list(rows) == ["naive", "warm_crop"]  # what did not run has no row
    assert rows["naive"].cpu_us_per_image == pytest.approx(5000)
    assert rows["naive"].images_per_s == pytest.approx(100)
    assert rows["naive"].runs == 3
    spread = rows["naive"].cpu_us_per_image_min, rows["naive"].cpu_us_per_image_max
    assert spread == pytest.approx((4000, 9000))
    assert rows["warm_crop"].times_naive == pytest.approx(50)
    assert rows["warm_crop"].cpu_us_per_image_normalised == pytest.approx(500)
    assert rows["warm_crop"].times_naive_normalised == pytest.approx(10)


def test_without_naive_there_is_no_ratio() -> None:
    (row,) = rows_of({"cold": [Run(1, 1.0, 1.0)]})
    assert row.times_naive is None


def test_the_document_has_the_designs_in_order_and_no_references() -> None:
    runs = {design: [Run(1, 1.0, 1.0)] for design in ("limit: decode", "naive", "cold")}
    document = as_json(rows_of(runs), designs=DESIGNS)
    assert list(document) == ["rows"]
    assert [row["design"] for row in document["rows"]] == ["cold", "naive"]
    assert {"design", "cpu_us_per_image", "images_per_s", "runs"} <= document["rows"][0].keys()


def test_a_training_says_when_it_reached_a_score_first() -> None:
    training = Training(Run(1, 1.0, 1.0), [(1.0, 0.6), (2.0, 0.9), (3.0, 0.8)])
    assert training.seconds_to(0.8) == 2.0
    assert training.seconds_to(0.95) is None


def test_rows_of_trainings_compare_with_naive_and_frozen_ones_with_frozen_naive() -> None:
    def trainings(*speeds: float, reached: float = 0.9) -> list[Training]:
        return [Training(Run(100, 1.0, 100 / speed), [(1 / speed, reached)]) for speed in speeds]

    found = {
        "ours": [*trainings(40, 60), *trainings(50, reached=0.5)],
        "naive": trainings(10),
        "ours_frozen": trainings(100, reached=0.7),
        "naive_frozen": trainings(20),
        "timm_bf16": [],
    }
    rows = {row.loop: row for row in training_rows(found, score=0.8)}
    assert list(rows) == ["ours", "naive", "ours_frozen", "naive_frozen"]
    assert (rows["ours"].images_per_s, rows["ours"].images_per_s_min, rows["ours"].images_per_s_max) == (50, 40, 60)
    assert rows["ours"].times_naive == pytest.approx(5)
    assert rows["ours_frozen"].times_naive == pytest.approx(5)
    assert rows["ours"].seconds_to_score == pytest.approx((1 / 40 + 1 / 60) / 2)  # two of three got there
    assert rows["ours_frozen"].seconds_to_score is None
    assert rows["ours"].best_score == 0.9


def test_a_clock_counts_children_that_have_ended() -> None:
    clock = Clock()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert clock.run(1).cpu_s > 0.01


@pytest.mark.slow
def test_the_comparison_runs_and_says_which_peers_are_missing(tmp_path: Path) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("TIRE_")}
    command = [
        sys.executable,
        "-m",
        "tire_pipeline",
        "bench",
        "loader",
        "--num-images",
        "64",
        "--rounds",
        "1",
        "--json",
    ]
    # In a folder without .venv-bench.
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True, timeout=500)
    rows = json.loads(done.stdout)["rows"]
    assert tuple(row["design"] for row in rows) == OURS
    assert all(row["cpu_us_per_image"] > 0 and row["images_per_s"] > 0 and row["runs"] == 1 for row in rows)
    assert all(peer in done.stderr for peer in PEERS) and "make bench-peers" in done.stderr


@pytest.mark.bench
def test_the_comparison_of_trainings_runs_every_loop() -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("TIRE_")}
    options = "--model-type cnn --num-images 24 --side 32 --epochs 1 --batch-size 8 --rounds 1 --json"
    command = [sys.executable, "-m", "tire_pipeline", "bench", "train", *options.split()]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=500)
    rows = {row["loop"]: row for row in json.loads(done.stdout)["rows"]}
    assert set(rows) - set(BF16_LOOPS) == set(LOOPS)
    assert all(row["images_per_s"] > 0 and 0 <= row["best_score"] <= 1 and row["runs"] == 1 for row in rows.values())


def test_a_design_that_fails_is_reported_with_its_last_words() -> None:
    with pytest.raises(loader.TireError, match=r"ended with 1:\n(.*\n)*ValueError: no shards"):
        loader.answer_of([sys.executable, "-c", "raise ValueError('no shards')"], os.environ)
