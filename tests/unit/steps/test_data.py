from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes import picture
from tire_pipeline import steps
from tire_pipeline.errors import DataRefused, InputError, LeakageError


def draw(folder: Path, *, per_class: int = 40, classes: tuple[str, ...] = ("good", "bad")) -> Path:
    for c, label in enumerate(classes):
        (folder / label).mkdir(parents=True)
        for i in range(per_class):
            (folder / label / f"{i}.png").write_bytes(picture(1000 * c + i))
    return folder


def test_a_pushed_version_is_validated_and_split_and_both_are_kept(tmp_path: Path, fake: Any) -> None:
    steps.push(draw(tmp_path / "in"), version="v1", services=fake)
    snapshot = steps.validate("v1", services=fake)
    assert (snapshot.num_images, snapshot.classes) == (80, ["bad", "good"])
    assert fake.ledger.snapshots[0]["digest"] == snapshot.digest
    folder = f"snapshots/{snapshot.digest}/"
    assert json.loads(fake.objects.get(folder + "report.json"))["ok"]
    assert fake.objects.get(folder + "quarantine.csv") == b"path,error\n"
    made = steps.split(snapshot, services=fake)
    assert made.num_train + made.num_val + made.num_test == 80
    assert fake.objects.head(f"{folder}splits/{made.digest}.parquet") is not None
    assert steps.split(snapshot, services=fake) == made
    assert steps.split(snapshot, seed=2, services=fake).digest != made.digest


@pytest.mark.parametrize(
    ("classes", "per_class", "said"),
    [
        (("good",), 30, r"there are at least two classes: found 1\. Upload a folder for each class"),
        (("good", "bad"), 9, r"at least 20 readable, labelled images: found 18.*every class has at least 10 images"),
    ],
)
def test_a_version_that_cannot_be_trained_from_is_refused_and_its_report_stays(
    tmp_path: Path, fake: Any, classes: tuple[str, ...], per_class: int, said: str
) -> None:
    steps.push(draw(tmp_path / "in", classes=classes, per_class=per_class), version="v1", services=fake)
    with pytest.raises(DataRefused, match=said):
        steps.validate("v1", services=fake)
    assert fake.ledger.snapshots == []
    reports = [k for k in fake.s3.stored if k.endswith("report.html")]
    assert len(reports) == 1


def test_broken_files_over_one_percent_refuse_and_are_listed_for_download(tmp_path: Path, fake: Any) -> None:
    folder = draw(tmp_path / "in")
    for i in (0, 1):
        (folder / "good" / f"{i}.png").write_bytes(b"no image")
    steps.push(folder, version="v1", services=fake)
    with pytest.raises(DataRefused, match=r"First unreadable file: good/0\.png: This is no readable image"):
        steps.validate("v1", services=fake)
    (key,) = [k for k in fake.s3.stored if k.endswith("quarantine.csv")]
    assert fake.objects.get(key).decode().count("good/") == 2
    snapshot = steps.validate("v1", max_bad=0.05, services=fake)
    assert snapshot.num_images == 78


def test_a_group_that_given_splits_tear_apart_is_named(tmp_path: Path, fake: Any) -> None:
    folder = draw(tmp_path / "in")
    sides = ("train", "train", "val", "test")
    rows = [f"{label}/{i}.png,{label},{label}{i},{sides[i % 4]}" for label in ("good", "bad") for i in range(40)]
    rows[1] = "good/1.png,good,good3,train"  # tyre good3 is in test as well
    (folder / "labels.csv").write_text("\n".join(["path,label,group,split", *rows]))
    steps.push(folder, version="v1", services=fake)
    snapshot = steps.validate("v1", services=fake)
    with pytest.raises(LeakageError, match=r"first: 'good3' in test \(good/3\.png\) and train \(good/1\.png\)"):
        steps.split(snapshot, services=fake)


def test_versions_are_listed_with_their_markers_and_shown_without_reading_images(tmp_path: Path, fake: Any) -> None:
    steps.push(draw(tmp_path / "in", per_class=3), version="v1", services=fake)
    fake.objects.put("datasets/v2/good/1.png", b"")
    first, second = steps.list_versions(services=fake)
    assert (first["version"], first["complete"]) == ("v1", True)
    assert second == {"version": "v2", "complete": False, "marker": None}
    fake.s3.read.clear()
    shown = steps.show_version("v1", services=fake)
    assert (shown["num_images"], shown["num_groups"], shown["classes"]) == (6, 6, {"bad": 3, "good": 3})
    assert fake.s3.read == ["datasets/v1/_MANIFEST.json"]
    with pytest.raises(InputError, match="still being uploaded"):
        steps.show_version("v2", services=fake)
