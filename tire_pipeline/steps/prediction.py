"""Steps that classify: images, folders of images, and lists of images in a CSV."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tire_pipeline.errors import InputError
from tire_pipeline.several_labels import values_by_label
from tire_pipeline.steps.data import Progress
from tire_pipeline.steps.live import live, registered_bundle

if TYPE_CHECKING:
    from tire_pipeline.serving.predictor import ImageClassifier
    from tire_pipeline.wiring import Services

AT_ONCE = 16
ANSWER = ("predicted_class", "probability", "decision", "ms", "error")


@dataclass(frozen=True)
class Listing:
    """What a CSV asks for: its columns and rows, the files they name, its label columns as `labels.label_columns` has
    them, and whether any row has a class.
    """

    columns: list[str]
    rows: list[dict[str, str]]
    files: list[Path]
    labels: dict[str, str]
    labelled: bool


def predict(
    paths: Sequence[Path],
    *,
    bundle: Path | None = None,
    progress: Progress | None = None,
    services: Services | None = None,
) -> list[dict[str, Any]]:
    """Classify images and folders of images with a bundle, or with the model in production.

    One record a file, in order, with `path` and either `error` or label, probability, probabilities, decision; `ms` is
    the time it took, by its batch of 16.
    """
    files = _images(paths)
    return list(_answers(_classifier(bundle, services), files, progress))


def predict_csv(
    out: Path,
    *,
    paths: Sequence[Path] = (),
    listing: Path | None = None,
    path_column: str = "path",
    label_column: str = "label",
    bundle: Path | None = None,
    progress: Progress | None = None,
    services: Services | None = None,
) -> dict[str, Any]:
    """Classify what the CSV `listing` or `paths` name, and write the answers to the CSV `out`, once all are known.

    Where there are no classes to compare with, that is path, predicted_class, probability, decision, ms, error; where
    the listing has some, true_class as well. A listing without any becomes a submission: its own rows and columns, with
    the label filled in. A file that cannot be read has its reason under `error`, in a submission an empty label.

    Label columns are those of a labels.csv (`datasets.labels.Columns`): several are compared as one class, and filled
    in each with its own value. One that is called like a label of the model's is compared with that label's value.

    Returns counts, throughput, and for classes that were known the accuracy. Paths are relative to the listing's
    folder. InputError for a listing that cannot be used, or that `out` would overwrite.
    """
    from tire_pipeline.datasets.labels import class_of, values_of

    if listing and out.exists() and listing.exists() and out.samefile(listing):
        raise InputError(f"{out} is the CSV that names the images, and would be overwritten. Name another --out.")
    asked = _read_listing(listing, path_column, label_column) if listing else None
    files = asked.files if asked else _images(paths)
    submission = asked is not None and not asked.labelled
    classifier = _classifier(bundle, services)
    labels = asked.labels if asked else {}
    _check_labels(labels, classifier.bundle.classes, where=str(listing))
    columns = _columns(asked)
    counts = {"num_images": 0, "num_errors": 0, "num_labelled": 0, "num_right": 0}
    begun = time.monotonic()
    with _written_whole(out) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for i, answer in enumerate(_answers(classifier, files, progress)):
            own = asked.rows[i] if asked else {}
            filled = {**own, **values_of(answer.get("label", ""), labels)}
            truth, said = (class_of(row, labels, where=str(listing)) for row in (own, filled))
            _count(counts, answer, truth, said)
            named = own.get(path_column) or answer["path"]
            writer.writerow(filled if submission else _row(named, answer, truth, columns))
    return _summary(counts, out, time.monotonic() - begun)


def _row(path: str, answer: Mapping[str, Any], truth: str, columns: Sequence[str]) -> dict[str, Any]:
    row = {**answer, "path": path, "true_class": truth, "predicted_class": answer.get("label", "")}
    return {name: row.get(name, "") for name in columns}


def _columns(asked: Listing | None) -> list[str]:
    if asked is None:
        return ["path", *ANSWER]
    if asked.labelled:
        return ["path", "true_class", *ANSWER]
    return [*asked.columns, *(column for column in asked.labels if column not in asked.columns)]


def _check_labels(labels: Mapping[str, str], classes: Sequence[str], *, where: str) -> None:
    """Raises InputError for several labels of which the classes lack one."""
    known = list(values_by_label(classes))
    if len(labels) > 1 and not set(labels.values()) <= set(known):
        raise InputError(
            f"{where} has the labels {', '.join(labels.values())}, but the model's classes have "
            f"{', '.join(known) or 'one label only'}. Name the columns of the model's labels with --label-column."
        )


@contextmanager
def _written_whole(out: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `out` when it is complete; a pipe or terminal is written to as it is."""
    whole = out.resolve()
    part = out if out.exists() and not out.is_file() else whole.with_name(f".{whole.name}.part")
    try:
        with part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:  # names that are no UTF-8
            yield file
        if part != out:
            part.replace(whole)
    finally:
        if part != out:
            part.unlink(missing_ok=True)


def _count(counts: dict[str, int], answer: Mapping[str, Any], truth: str, said: str) -> None:
    counts["num_images"] += 1
    counts["num_errors"] += "error" in answer
    counts["num_labelled"] += bool(truth)
    counts["num_right"] += bool(truth) and said == truth


def _summary(counts: Mapping[str, int], out: Path, seconds: float) -> dict[str, Any]:
    summary: dict[str, Any] = {"out": str(out), "num_images": counts["num_images"], "num_errors": counts["num_errors"]}
    summary |= {"seconds": round(seconds, 2), "images_per_s": round(counts["num_images"] / max(seconds, 1e-9), 1)}
    if counts["num_labelled"]:
        summary["accuracy"] = counts["num_right"] / counts["num_labelled"]
    return summary


def _answers(classifier: ImageClassifier, files: Sequence[Path], progress: Progress | None) -> Iterator[dict[str, Any]]:
    """One record a file, in order, without what does not apply."""
    stream, done = classifier.stream(files), 0
    while True:
        begun = time.perf_counter()
        batch = list(islice(stream, AT_ONCE))
        if not batch:
            return
        ms = round((time.perf_counter() - begun) * 1000 / len(batch), 3)
        done += len(batch)
        if progress:
            progress(done, len(files))
        for found in batch:
            yield {**{k: v for k, v in asdict(found).items() if v is not None}, "ms": ms}


def _images(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those in the folders named, by name; one that is not there will be an error entry."""
    from tire_pipeline.imaging import EXTENSIONS

    files: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS) if path.is_dir() else [path]
        files += inside
    if paths and not any(path.exists() for path in paths):
        raise InputError(f"{', '.join(map(str, paths))} does not exist.")
    if not files:
        raise InputError(f"There is no image ({', '.join(EXTENSIONS)}) in {', '.join(map(str, paths))}.")
    return files


def _read_listing(listing: Path, path_column: str, label_column: str) -> Listing:
    from tire_pipeline.datasets.labels import Columns, class_of, label_columns, read_rows, read_text

    if not listing.is_file():
        raise InputError(f"The file {listing} does not exist.")
    columns, numbered = read_rows(read_text(listing.read_bytes(), where=str(listing)), where=str(listing))
    if path_column not in columns:
        raise InputError(
            f"{listing} has no column {path_column!r}; it has {', '.join(map(repr, columns)) or 'no header'}. Name the "
            "column with --path-column."
        )
    labels = label_columns(Columns(path=path_column, label=label_column), columns)
    rows, labelled = [], False
    for line, row in numbered:
        if None in row:
            raise InputError(f"{listing}, line {line}, has more fields than the header. Quote what holds a comma.")
        rows.append(row)
        labelled |= bool(class_of(row, labels, where=f"{listing}, line {line},"))
    if not rows:
        raise InputError(f"{listing} has no rows.")
    files = [listing.parent / (row[path_column] or "").strip() for row in rows]
    return Listing(columns, rows, files, labels, labelled)


def _classifier(bundle: Path | None, services: Services | None) -> ImageClassifier:
    """The bundle's, or that of the model in production."""
    from tire_pipeline.serving.predictor import ImageClassifier

    if bundle:
        return ImageClassifier.load(bundle)
    s = live(services)
    champion = s.tracking.by_alias("production")
    if champion is None:
        raise InputError("No model is in production yet. Name a bundle with --bundle, or promote a model.")
    with registered_bundle(s, champion.tags) as stored:
        return ImageClassifier.load(stored.path)  # which then needs its files no more
