from __future__ import annotations

import csv
import os
from dataclasses import replace
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
def of_two_labels(bundle: Bundle) -> Bundle:
    """Red is a defective tread, green a good side."""
    return replace(bundle, classes=["condition=defective;view=tread", "condition=good;view=side"]).save()


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


@pytest.mark.parametrize(
    ("columns", "label_column"), [("label:view,label:condition", "label"), ("view,condition", "view,condition")]
)
def test_several_label_columns_are_compared_as_one_class_in_the_models_order(
    columns: str, label_column: str, photos: Path, of_two_labels: Bundle, tmp_path: Path
) -> None:
    lines = ["00.png,side,good", "01.png,side,defective", "02.png,,", "20.png,side,good"]
    asked = write(photos / "in.csv", f"path,{columns}", *lines)
    out = tmp_path / "out.csv"
    made = steps.predict_csv(out, listing=asked, label_column=label_column, bundle=of_two_labels.path)
    assert [(r["true_class"], r["predicted_class"]) for r in read(out)] == [
        ("condition=good;view=side", "condition=good;view=side"),
        ("condition=defective;view=side", "condition=defective;view=tread"),
        ("", "condition=good;view=side"),
        ("condition=good;view=side", ""),
    ]
    assert made["accuracy"] == 1 / 3


@pytest.mark.parametrize("column", ["condition", "label:condition"])
def test_one_label_of_several_is_compared_with_its_own_value(
    column: str, photos: Path, of_two_labels: Bundle, tmp_path: Path
) -> None:
    asked = write(photos / "in.csv", f"path,{column}", "00.png,good", "01.png,defective", "02.png,defective", "03.png,")
    out = tmp_path / "out.csv"
    made = steps.predict_csv(out, listing=asked, label_column=column, bundle=of_two_labels.path)
    assert [r["true_class"] for r in read(out)] == ["good", "defective", "defective", ""]
    assert read(out)[0]["predicted_class"] == "condition=good;view=side"
    assert made["accuracy"] == 2 / 3


@pytest.mark.parametrize(
    ("header", "label_column", "expected"),
    [
        ("path,label:view,label:condition", "label", ["00.png,side,good", "01.png,tread,defective", "20.png,,"]),
        ("path,view", "condition,view", ["00.png,side,good", "01.png,tread,defective", "20.png,,"]),
        ("path,condition", "condition", ["00.png,good", "01.png,defective", "20.png,"]),
    ],
)
def test_a_submission_has_each_label_in_its_own_column(
    header: str, label_column: str, expected: list[str], photos: Path, of_two_labels: Bundle, tmp_path: Path
) -> None:
    empty = "," * header.count(",")
    asked = write(photos / "in.csv", header, *(f"{name}{empty}" for name in ("00.png", "01.png", "20.png")))
    steps.predict_csv(tmp_path / "out.csv", listing=asked, label_column=label_column, bundle=of_two_labels.path)
    assert (tmp_path / "out.csv").read_text().splitlines()[1:] == expected


def test_labels_that_the_model_does_not_have_are_refused(photos: Path, bundle: Bundle, tmp_path: Path) -> None:
    asked = write(photos / "in.csv", "path,label:condition,label:view", "00.png,good,side")
    with pytest.raises(InputError, match="has the labels condition, view, but the model's classes have one label only"):
        steps.predict_csv(tmp_path / "out.csv", listing=asked, bundle=bundle.path)
    assert not (tmp_path / "out.csv").exists()


def test_the_csv_that_is_read_is_never_the_one_that_is_written(photos: Path, bundle: Bundle, tmp_path: Path) -> None:
    asked = write(photos / "in.csv", "path", "00.png")
    (tmp_path / "link.csv").symlink_to(asked)
    for out in (asked, photos / ".." / "photos" / "in.csv", tmp_path / "link.csv"):
        with pytest.raises(InputError, match=r"is the CSV that names the images, and would be overwritten"):
            steps.predict_csv(out, listing=asked, bundle=bundle.path)
    assert asked.read_text() == "path\n00.png\n"


def test_a_csv_is_there_whole_or_as_it_was(photos: Path, bundle: Bundle, tmp_path: Path) -> None:
    out = write(tmp_path / "out.csv", "of yesterday")
    before = sorted(tmp_path.iterdir())

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.predict_csv(out, paths=[photos], bundle=bundle.path, progress=stop)
    assert out.read_text() == "of yesterday\n" and sorted(tmp_path.iterdir()) == before
    (tmp_path / "link.csv").symlink_to(out)
    steps.predict_csv(tmp_path / "link.csv", paths=[photos], bundle=bundle.path)
    assert (tmp_path / "link.csv").is_symlink() and len(read(out)) == 21
    with pytest.raises(IsADirectoryError):
        steps.predict_csv(photos, paths=[photos], bundle=bundle.path, progress=stop)


def test_answers_can_be_written_into_a_pipe(photos: Path, bundle: Bundle) -> None:
    reading, writing = os.pipe()
    steps.predict_csv(Path(f"/dev/fd/{writing}"), paths=[photos / "00.png"], bundle=bundle.path)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        assert pipe.read().splitlines()[1].startswith(f"{photos / '00.png'},good,")


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
        ("path\na,b.png\n", r"in\.csv, line 2, has more fields than the header"),
        ("path,x,x\na.png,1,2\n", r"in\.csv has the column 'x' more than once"),
        ("path\na\0b.png\n", r"in\.csv, line 2, has a NUL character"),
        (f'path\na.png\n"{"b" * 2**18}"\n', r"in\.csv, line 3, cannot be read: field larger than field limit"),
        ("path,label:condition,label:view\na.png,bad,\n", r"in\.csv, line 2, has no view, but other labels"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_before_a_model_is_loaded(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        steps.predict_csv(tmp_path / "out.csv", listing=tmp_path / "in.csv", bundle=tmp_path)
    with pytest.raises(InputError, match=r"absent\.csv does not exist"):
        steps.predict_csv(tmp_path / "out.csv", listing=tmp_path / "absent.csv", bundle=tmp_path)
    assert not (tmp_path / "out.csv").exists()
