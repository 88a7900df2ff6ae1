from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.serving.conftest import make_bundle, solid  # noqa: F401  (a fixture)
from tire_pipeline import steps
from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import InputError
from tire_pipeline.imaging import encode_png

RED, GREEN = solid(220, 20), solid(20, 220)


@pytest.fixture
def bundle(make_bundle: Any) -> Bundle:  # noqa: F811
    made: Bundle = make_bundle()
    return made


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty red and green pictures by turns, and one that is no picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02d}.png").write_bytes(encode_png(RED if i % 2 else GREEN))
    (folder / "20.png").write_bytes(b"no picture")
    return folder


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def write(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_a_folder_is_answered_file_by_file_with_times_and_progress(photos: Path, bundle: Bundle) -> None:
    told: list[tuple[int, int]] = []
    answers = steps.predict([photos], bundle=bundle.path, progress=lambda done, total: told.append((done, total)))
    assert told == [(16, 21), (21, 21)]
    assert [a.get("label") for a in answers[:2]] == ["good", "defective"]
    assert all(a["ms"] > 0 for a in answers)
    assert "error" in answers[20] and "label" not in answers[20]


def test_what_no_file_can_be_called_and_what_is_not_there_stop_nothing(photos: Path, bundle: Bundle) -> None:
    absent = photos / "absent.png"
    answers = steps.predict([photos / "00.png", absent, Path("a\0b.png"), photos / "01.png"], bundle=bundle.path)
    assert [a.get("label") for a in answers] == ["good", None, None, "defective"]
    assert answers[1]["error"] == f"{absent} cannot be read: No such file or directory."


def test_a_pipe_among_the_pictures_of_a_folder_is_an_error_and_holds_nothing_up(photos: Path, bundle: Bundle) -> None:
    os.mkfifo(photos / "00-pipe.png")
    (photos / "00-link.png").symlink_to("00.png")
    answers = steps.predict([photos], bundle=bundle.path)
    assert [a.get("label") for a in answers[:4]] == ["good", None, "good", "defective"]
    assert answers[1]["error"] == f"{photos / '00-pipe.png'} cannot be read: it is no regular file."


def test_a_name_that_is_no_utf_8_comes_through_as_it_is(photos: Path, bundle: Bundle, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    (photos / "00.png").rename(photos / name)
    steps.predict_csv(tmp_path / "out.csv", paths=[photos], bundle=bundle.path)
    assert b"/\xff.png,good," in (tmp_path / "out.csv").read_bytes()


def test_a_folder_becomes_a_csv(photos: Path, bundle: Bundle, tmp_path: Path) -> None:
    made = steps.predict_csv(tmp_path / "out.csv", paths=[photos], bundle=bundle.path)
    rows = read(tmp_path / "out.csv")
    assert list(rows[0]) == ["path", "predicted_class", "probability", "decision", "ms", "error"]
    assert (made["num_images"], made["num_errors"], len(rows)) == (21, 1, 21)
    assert made["images_per_s"] > 0 and "accuracy" not in made
    assert [r["path"] for r in rows] == sorted(str(p) for p in photos.iterdir())
    assert rows[20]["error"] and not rows[20]["predicted_class"]


def test_a_csv_with_classes_is_compared_with_them(photos: Path, bundle: Bundle, tmp_path: Path) -> None:
    asked = write(photos.parent / "in.csv", "file,kind", "photos/00.png,good", "photos/01.png,good", "photos/02.png,")
    made = steps.predict_csv(
        tmp_path / "out.csv", listing=asked, path_column="file", label_column="kind", bundle=bundle.path
    )
    rows = read(tmp_path / "out.csv")
    assert [(r["path"], r["true_class"], r["predicted_class"]) for r in rows] == [
        ("photos/00.png", "good", "good"),
        ("photos/01.png", "good", "defective"),
        ("photos/02.png", "", "good"),
    ]
    assert 0.5 < float(rows[0]["probability"]) <= 1 and float(rows[0]["ms"]) > 0
    assert made["accuracy"] == 0.5


@pytest.mark.parametrize("header", ["id,path,label", "id,path"])
def test_a_csv_without_classes_becomes_a_submission(header: str, photos: Path, bundle: Bundle, tmp_path: Path) -> None:
    end = "," if header.endswith("label") else ""
    lines = [f"7,photos/01.png{end}", f"8,photos/20.png{end}", f"9,photos/absent.png{end}"]
    asked = write(photos.parent / "in.csv", header, *lines)
    made = steps.predict_csv(tmp_path / "out.csv", listing=asked, bundle=bundle.path)
    expected = ["id,path,label", "7,photos/01.png,defective", "8,photos/20.png,", "9,photos/absent.png,"]
    assert (tmp_path / "out.csv").read_text().splitlines() == expected
    assert made["num_errors"] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file\na.png\n", "has no column 'path'; it has 'file'. Name the column with --path-column"),
        ("", "has no header"),
        ("path\n", "has no rows"),
        ("path\na,b.png\n", "Row 1 .* has more fields than the header"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_before_a_model_is_loaded(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        steps.predict_csv(tmp_path / "out.csv", listing=tmp_path / "in.csv", bundle=tmp_path)
    with pytest.raises(InputError, match=r"absent\.csv does not exist"):
        steps.predict_csv(tmp_path / "out.csv", listing=tmp_path / "absent.csv", bundle=tmp_path)
    assert not (tmp_path / "out.csv").exists()
