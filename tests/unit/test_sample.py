"""The sample data: what is written, that it repeats, and that only the rubber tells the classes apart."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tire_pipeline.errors import InputError
from tire_pipeline.sample import draw, draw_sample
from tire_pipeline.sample.defects import DEFECTS, draw_defect
from tire_pipeline.sample.plan import KINDS, plan_groups
from tire_pipeline.sample.rubber import Surface

if TYPE_CHECKING:
    from pathlib import Path

Rows = list[dict[str, str]]

NUM_IMAGES = 60
SIZE = 96


def labels_of(folder: Path) -> Rows:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digests_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    draw_sample(folder, num_images=NUM_IMAGES, seed=3, size=SIZE)
    return folder


def test_the_same_seed_gives_the_same_bytes_however_many_threads_draw(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draw, "WORKERS", 5)
    draw_sample(tmp_path / "again", num_images=NUM_IMAGES, seed=3, size=SIZE)
    assert digests_of(tmp_path / "again") == digests_of(sample)


def test_another_seed_gives_no_picture_twice(sample: Path, tmp_path: Path) -> None:
    draw_sample(tmp_path / "other", num_images=NUM_IMAGES, seed=4, size=SIZE)
    ours, others = (set(digests_of(folder).values()) for folder in (sample, tmp_path / "other"))
    assert len(ours) == NUM_IMAGES + 1 and not ours & others


def test_labels_csv_names_every_picture_in_the_folder_of_its_label(sample: Path) -> None:
    rows = labels_of(sample)
    assert list(rows[0]) == ["path", "label", "group", "view", "camera", "defect"]
    assert {row["path"] for row in rows} == set(digests_of(sample)) - {"labels.csv"}
    assert all(row["path"].startswith(row["label"] + "/") for row in rows)
    assert all(bool(row["defect"]) == (row["label"] == "defective") for row in rows)


def test_the_summary_counts_what_was_written(tmp_path: Path) -> None:
    summary = draw_sample(tmp_path, num_images=41, size=64)
    rows = labels_of(tmp_path)
    assert summary.num_images == len(rows) == 41
    assert summary.num_groups == len({row["group"] for row in rows})
    assert summary.num_defective == sum(row["label"] == "defective" for row in rows)
    assert summary.classes == ("good", "defective")


def test_a_tyre_has_two_to_four_shots_and_one_label_view_and_defect(sample: Path) -> None:
    shots: dict[str, Rows] = defaultdict(list)
    for row in labels_of(sample):
        shots[row["group"]].append(row)
    assert all(2 <= len(rows) <= 4 for rows in shots.values())
    for rows in shots.values():
        assert len({(row["label"], row["view"], row["defect"]) for row in rows}) == 1


def test_every_picture_opens_at_the_size_of_its_camera(sample: Path) -> None:
    sizes: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for row in labels_of(sample):
        sizes[row["camera"]].add(cv2.imread(str(sample / row["path"])).shape)
    assert len(sizes) == 4 and all(len(shapes) == 1 for shapes in sizes.values())
    assert len(set.union(*sizes.values())) == 4


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 1.0])
def test_the_share_of_defective_tyres_is_kept_in_each_view(rate: float) -> None:
    groups = plan_groups(800, rng=np.random.default_rng(1), defect_rate=rate)
    for view, kinds in KINDS.items():
        defects = [group.defect for group in groups if group.view == view]
        assert sum(map(bool, defects)) == round(rate * len(defects))
        assert {defect for defect in defects if defect} == (set(kinds) if rate else set())


@pytest.mark.parametrize("num_images", [20, 21, 22, 399, 1100])
def test_any_number_of_images_can_be_split_into_tyres(num_images: int) -> None:
    for seed in range(20):
        groups = plan_groups(num_images, rng=np.random.default_rng(seed), defect_rate=0.5)
        assert sum(group.shots for group in groups) == num_images
        assert all(2 <= group.shots <= 4 for group in groups)


def test_shuffled_labels_change_the_labels_and_not_the_pictures(sample: Path, tmp_path: Path) -> None:
    draw_sample(tmp_path / "noise", num_images=NUM_IMAGES, seed=3, size=SIZE, shuffle_labels=True)
    assert Counter(digests_of(tmp_path / "noise").values()).keys() - digests_of(sample).values() == {
        digests_of(tmp_path / "noise")["labels.csv"]
    }
    before, after = ({row["group"]: row["label"] for row in labels_of(f)} for f in (sample, tmp_path / "noise"))
    assert Counter(before.values()) == Counter(after.values())
    assert before != after


def test_shuffled_labels_say_nothing_about_the_rubber() -> None:
    groups = plan_groups(8000, rng=np.random.default_rng(0), defect_rate=0.5, shuffle_labels=True)
    agreement = np.mean([bool(group.drawn) == bool(group.defect) for group in groups])
    assert 0.45 < agreement < 0.55


def test_progress_counts_up_to_the_last_picture(tmp_path: Path) -> None:
    seen: list[int] = []
    draw_sample(tmp_path, num_images=20, size=64, progress=seen.append)
    assert seen == sorted(set(seen)) and seen[-1] == 20


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"num_images": 19}, r"num_images is 19.*Ask for 20 or more"),
        ({"defect_rate": 1.1}, r"defect_rate is 1\.1.*between 0 and 1"),
        ({"defect_rate": float("nan")}, r"defect_rate is nan.*between 0 and 1"),
        ({"difficulty": -0.1}, r"difficulty is -0\.1.*between 0 and 1"),
        ({"size": 63}, r"size is 63.*Ask for 64 or more"),
        ({"seed": -1}, r"seed is -1.*0 or more"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, Any], text: str
) -> None:
    with pytest.raises(InputError, match=text):
        draw_sample(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "old.jpg").touch()
    with pytest.raises(InputError, match=r"is not empty \(it holds old\.jpg\).*new folder"):
        draw_sample(tmp_path)
    with pytest.raises(InputError, match=r"is a file, not a folder"):
        draw_sample(tmp_path / "old.jpg")


@pytest.mark.parametrize("kind", list(DEFECTS))
def test_a_defect_shrinks_and_fades_as_difficulty_grows(kind: Any) -> None:
    damage = [change_of(kind, difficulty) for difficulty in (0.0, 0.5, 1.0)]
    assert damage[0] > 1.5 * damage[1] > 2.25 * damage[2] > 0


def change_of(kind: Any, difficulty: float) -> float:
    """How much a defect changes grooved rubber: summed over reflectance and slopes."""

    def surface() -> Surface:
        plain = Surface.plain(np.random.default_rng(0), (200, 400), 250.0)
        plain.height_HW[:, ::20] -= 0.05
        return plain

    damaged = surface()
    draw_defect(damaged, kind, np.random.default_rng(1), at=(200.0, 100.0), difficulty=difficulty)
    pairs = zip(damaged.material(), surface().material(), strict=True)
    return sum(float(np.abs(after - before).sum()) for after, before in pairs)


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, dict[str, np.ndarray]]:
    """600 pictures and what a classifier could know of them without looking at the rubber."""
    folder = tmp_path_factory.mktemp("looks")
    draw_sample(folder, num_images=600, seed=11, size=160)
    rows = labels_of(folder)
    pictures = [cv2.imread(str(folder / row["path"])) for row in rows]
    num_bytes = [(folder / row["path"]).stat().st_size for row in rows]
    thumbs = np.stack([cv2.resize(p, (16, 16), interpolation=cv2.INTER_AREA) for p in pictures]).astype(float)
    cameras = sorted({row["camera"] for row in rows})
    metadata = [
        [*p.shape[:2], size / p.size, p.mean(), p.std(), row["view"] == "tread", *(row["camera"] == c for c in cameras)]
        for p, size, row in zip(pictures, num_bytes, rows, strict=True)
    ]
    return rows, {
        "colour": thumbs.mean(axis=(1, 2)),
        "metadata": np.asarray(metadata, float),
        "grey thumbnail": thumbs.mean(axis=3).reshape(len(rows), -1),
        "colour thumbnail": thumbs.reshape(len(rows), -1),
    }


@pytest.mark.parametrize("clue", ["colour", "metadata", "grey thumbnail", "colour thumbnail"])
@pytest.mark.parametrize("strength", [0.001, 0.1])
def test_the_label_cannot_be_guessed_without_looking_at_the_rubber(
    looks: tuple[Rows, dict[str, np.ndarray]], clue: str, strength: float
) -> None:
    rows, clues = looks
    truth = np.asarray([row["label"] == "defective" for row in rows])
    groups = [row["group"] for row in rows]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    guess = cross_val_predict(probe, clues[clue], truth, groups=groups, cv=folds)
    assert balanced_accuracy_score(truth, guess) < 0.65
