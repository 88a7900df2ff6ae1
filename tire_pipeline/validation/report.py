"""The report on a snapshot: JSON for programs, one self-contained page for people."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment

from tire_pipeline import imaging
from tire_pipeline.errors import DataRefused
from tire_pipeline.validation.expectations import Verdict

THUMBNAIL_PX = 120
SAMPLES_PER_CLASS = 8


def as_record(version: str, digest: str, index: pd.DataFrame, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What report.json holds: counts, classes, quarantine and verdicts, with `ok` for all of them together."""
    readable = index[index["error"] == ""]
    labelled = readable[readable["label"] != ""]
    return {
        "version": version,
        "snapshot": digest,
        "ok": all(v.ok for v in verdicts),
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
        "quarantined": index.loc[index["error"] != "", ["path", "error"]].to_dict("records"),
        "verdicts": [asdict(v) for v in verdicts],
    }


def refusal(record: dict[str, Any]) -> DataRefused:
    """The error for a record that is not ok: each demand that failed, what was found, and the fix."""
    failed = [v for v in record["verdicts"] if not v["ok"]]
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
    template = (files("tire_pipeline.validation") / "report.html").read_text(encoding="utf-8")
    return Environment(autoescape=True).from_string(template).render(record=record, sheets=sheets)


def _thumbnail(data: bytes) -> str:
    pixels = imaging.decode(data)
    scale = THUMBNAIL_PX / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    jpeg = imaging.encode_jpeg(imaging.resize(pixels, height=height, width=width), quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
