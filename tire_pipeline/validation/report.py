"""The report on a snapshot: JSON for programs, one self-contained page for people."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment

from tire_pipeline import imaging
from tire_pipeline.errors import DataRefused
from tire_pipeline.validation import suites
from tire_pipeline.validation.expectations import Verdict
from tire_pipeline.validation.signals import Signals

THUMBNAIL_PX = 120
SAMPLES_PER_CLASS = 8
LISTED = 200  # of a kind in report.json
CLUSTER_LISTED = 50  # images of a cluster
SHOWN = 12  # of a kind in pictures


def as_record(
    version: str, digest: str, index: pd.DataFrame, verdicts: Sequence[Verdict], signals: Signals | None = None
) -> dict[str, Any]:
    """What report.json holds: counts, classes, quarantine, signals and verdicts; `ok` when none of these refuses."""
    readable = index[index["error"] == ""]
    labelled = readable[readable["label"] != ""]
    signals = signals or Signals()
    clusters = _clusters(labelled, signals.duplicates)
    return {
        "version": version,
        "snapshot": digest,
        "ok": not any(v.refuses for v in verdicts),
        "num_images": len(index),
        "num_usable": len(labelled),
        "num_groups": int(labelled["group"].nunique()),
        "num_unlabelled": len(readable) - len(labelled),
        "classes": {str(k): int(n) for k, n in labelled["label"].value_counts().sort_index().items()},
        "resolutions": {
            str(size): int(n)
            for size, n in (readable["width"].astype(str) + " × " + readable["height"].astype(str))
            .value_counts()
            .head(6)
            .items()
        },
        "num_quarantined": len(index) - len(readable),
        "quarantined": index.loc[index["error"] != "", ["path", "error"]].head(LISTED).to_dict("records"),
        "suite_version": suites.SUITE_VERSION,
        "kinds": suites.kinds_of(labelled),
        "verdicts": [asdict(v) for v in verdicts],
        "warnings": [f"{v.demand}: {v.found}. {v.fix}" for v in verdicts if v.warns],
        "metadata_probe": signals.probe,
        "num_suspects": len(signals.suspects),
        "suspects": [asdict(s) for s in signals.suspects[:LISTED]],
        "doubter": signals.doubter,
        "num_outliers": len(signals.outliers),
        "outliers": [asdict(o) for o in signals.outliers[:LISTED]],
        "num_duplicate_clusters": len(signals.duplicates),
        "num_torn_clusters": sum(torn for torn, _ in clusters),
        "duplicates": [_rows(labelled, cluster[:CLUSTER_LISTED]) for _, cluster in clusters[:LISTED]],
        "duplicate_sizes": [len(cluster) for _, cluster in clusters[:LISTED]],
        "reference": signals.reference,
        "shifts": [{**asdict(s), "notable": s.notable} for s in signals.shifts],
        "new_classes": signals.new_classes,
        "missing_classes": signals.missing_classes,
    }


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The record's numbers by name, to be followed from version to version."""
    counts = {name: record[name] for name in record if name.startswith("num_")}
    probe = {} if record["metadata_probe"] is None else {"metadata_probe": record["metadata_probe"]}
    return {**counts, "num_warnings": len(record["warnings"]), **probe}


def refusal(record: dict[str, Any]) -> DataRefused:
    """The error for a record that is not ok: each demand that failed, what was found, and the fix."""
    failed = [v for v in record["verdicts"] if not v["ok"] and v["severity"] == "refuse"]
    lines = [f"{v['demand']}: {v['found']}. {v['fix']}" for v in failed]
    quarantined = record["quarantined"]
    first = f" First unreadable file: {quarantined[0]['path']}: {quarantined[0]['error']}" if quarantined else ""
    return DataRefused(
        f"The dataset version {record['version']!r} was refused; nothing was trained. Demanded but not so: "
        + " ".join(f"({i}) {line}" for i, line in enumerate(lines, start=1))
        + first
    )


def as_html(record: dict[str, Any], index: pd.DataFrame, read: Callable[[str], bytes]) -> str:
    """One page that opens offline: verdicts, class balance, sample sheet, quarantine. `read` gives a key's bytes."""
    readable = index[(index["error"] == "") & (index["label"] != "")]
    sheets = {
        str(label): [_thumbnail(read(key)) for key in rows.sort_values("sha256")["key"].head(SAMPLES_PER_CLASS)]
        for label, rows in readable.groupby("label")
    }
    pictures = {key: _thumbnail(read(key)) for key in _pictured(record)}
    template = (files("tire_pipeline.validation") / "report.html").read_text(encoding="utf-8")
    return (
        Environment(autoescape=True)
        .from_string(template)
        .render(record=record, sheets=sheets, pictures=pictures, shown=SHOWN)
    )


def _clusters(labelled: pd.DataFrame, clusters: Sequence[Sequence[int]]) -> list[tuple[bool, Sequence[int]]]:
    """Whether each cluster has images under different labels, and its positions; those that have come first."""
    label_N = pd.factorize(labelled["label"])[0]
    marked = [(len(set(label_N[list(cluster)])) > 1, cluster) for cluster in clusters]
    return sorted(marked, key=lambda found: not found[0])


def _rows(labelled: pd.DataFrame, positions: Sequence[int]) -> list[dict[str, str]]:
    columns = ["path", "key", "label", "group"]
    found = labelled.iloc[list(positions)][columns].itertuples(index=False, name=None)
    return [dict(zip(columns, row, strict=True)) for row in found]


def _pictured(record: dict[str, Any]) -> set[str]:
    """Keys of the images that the page shows beside the samples."""
    copies = [row["key"] for cluster in record["duplicates"][:SHOWN] for row in cluster[:4]]
    doubted = [row["key"] for row in record["suspects"][:SHOWN]]
    return {*copies, *doubted, *(row["key"] for row in record["outliers"][:SHOWN])}


def _thumbnail(data: bytes) -> str:
    pixels = imaging.decode(data)
    scale = THUMBNAIL_PX / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    jpeg = imaging.encode_jpeg(imaging.shrink(pixels, height=height, width=width), quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
