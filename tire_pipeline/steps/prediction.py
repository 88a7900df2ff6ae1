"""Steps that classify: images, folders of images, and lists of images in a CSV."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tire_pipeline.errors import InputError
from tire_pipeline.steps.data import Progress
from tire_pipeline.steps.live import live, stored_bundle

if TYPE_CHECKING:
    from tire_pipeline.serving.predictor import ImageClassifier
    from tire_pipeline.wiring import Services

AT_ONCE = 16
ANSWER = ("predicted_class", "probability", "decision", "ms", "error")


@dataclass(frozen=True)
class Listing:
    """What a CSV asks for: its columns and rows, the files they name, and the classes where they have one."""

    columns: list[str]
    rows: list[dict[str, str]]
    files: list[Path]
    labels: list[str]

    @property
    def labelled(self) -> bool:
        return any(self.labels)


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
    """Classify what the CSV `listing` or `paths` name, and write the answers to the CSV `out`, row by row.

    Where there are no classes to compare with, that is path, predicted_class, probability, decision, ms, error; where
    the listing has some, true_class as well. A listing without any becomes a submission: its own rows and columns, with
    the label filled in. A file that cannot be read has its reason under `error`, in a submission an empty label.

    Returns counts, throughput, and for classes that were known the accuracy. Paths are relative to the listing's
    folder. InputError for a listing that cannot be used.
    """
    asked = _read_listing(listing, path_column, label_column) if listing else None
    files = asked.files if asked else _images(paths)
    submission = asked is not None and not asked.labelled
    classifier = _classifier(bundle, services)
    columns = _columns(asked, label_column)
    counts = {"num_images": 0, "num_errors": 0, "num_labelled": 0, "num_right": 0}
    begun = time.monotonic()
    with out.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:  # names that are no UTF-8
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for i, answer in enumerate(_answers(classifier, files, progress)):
            truth = asked.labels[i] if asked else ""
            _count(counts, answer, truth)
            own = asked.rows[i] if asked else {}
            named = own.get(path_column) or answer["path"]
            filled = {**own, label_column: answer.get("label", "")}
            writer.writerow(filled if submission else _row(named, answer, truth, columns))
    return _summary(counts, out, time.monotonic() - begun)


def _row(path: str, answer: Mapping[str, Any], truth: str, columns: Sequence[str]) -> dict[str, Any]:
    row = {**answer, "path": path, "true_class": truth, "predicted_class": answer.get("label", "")}
    return {name: row.get(name, "") for name in columns}


def _columns(asked: Listing | None, label_column: str) -> list[str]:
    if asked is None:
        return ["path", *ANSWER]
    if asked.labelled:
        return ["path", "true_class", *ANSWER]
    return asked.columns if label_column in asked.columns else [*asked.columns, label_column]


def _count(counts: dict[str, int], answer: Mapping[str, Any], truth: str) -> None:
    counts["num_images"] += 1
    counts["num_errors"] += "error" in answer
    counts["num_labelled"] += bool(truth)
    counts["num_right"] += bool(truth) and answer.get("label") == truth


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
    from tire_pipeline.datasets.labels import read_text

    if not listing.is_file():
        raise InputError(f"The file {listing} does not exist.")
    with io.StringIO(read_text(listing.read_bytes(), where=str(listing)), newline="") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), list(reader.fieldnames or [])
    if path_column not in columns:
        raise InputError(
            f"{listing} has no column {path_column!r}; it has {', '.join(map(repr, columns)) or 'no header'}. Name the "
            "column with --path-column."
        )
    if long := next((i for i, row in enumerate(rows, start=1) if None in row), None):
        raise InputError(f"Row {long} of {listing} has more fields than the header. Quote what holds a comma.")
    if not rows:
        raise InputError(f"{listing} has no rows.")
    files = [listing.parent / (row[path_column] or "").strip() for row in rows]
    labels = [(row.get(label_column) or "").strip() for row in rows]
    return Listing(columns, rows, files, labels)


def _classifier(bundle: Path | None, services: Services | None) -> ImageClassifier:
    """The bundle's, or that of the model in production."""
    from tire_pipeline.serving.predictor import ImageClassifier

    if bundle:
        return ImageClassifier.load(bundle)
    s = live(services)
    champion = s.tracking.by_alias("production")
    if champion is None:
        raise InputError("No model is in production yet. Name a bundle with --bundle, or promote a model.")
    with stored_bundle(s, champion.tags["tire.bundle"]) as stored:
        return ImageClassifier.load(stored.path)  # which then needs its files no more
