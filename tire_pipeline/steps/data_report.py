"""The report on a dataset version: what it is compared with, and where people find it."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tire_pipeline.steps.learnt import learnt_by
from tire_pipeline.steps.live import image_cache, live, registered_bundle

if TYPE_CHECKING:
    import pandas as pd

    from tire_pipeline.datasets.snapshots import Snapshot
    from tire_pipeline.stores.tracking import RegisteredVersion
    from tire_pipeline.validation.label_errors import Doubter
    from tire_pipeline.validation.signals import Reference, Signals
    from tire_pipeline.wiring import Services

log = logging.getLogger(__name__)


def measured(s: Services, snapshot: Snapshot) -> Signals:
    """The signals of a snapshot, by itself and against the data and the doubts of the model in production."""
    from tire_pipeline.datasets.snapshots import load_fingerprints
    from tire_pipeline.splits import likeness_of
    from tire_pipeline.validation.signals import measure

    likeness, prints_NB = likeness_of(s.objects, snapshot), load_fingerprints(s.objects, snapshot)
    reference, champion = against_champion(s, snapshot)
    return measure(snapshot.usable, likeness=likeness, prints_NB=prints_NB, reference=reference, champion=champion)


def against_champion(s: Services, snapshot: Snapshot) -> tuple[Reference | None, Doubter | None]:
    """What the model in production was trained on, and what it says of the images of this snapshot that it did not
    learn from. None where there is no such model or its data is gone, and of a model that knows other classes."""
    from tire_pipeline.datasets import snapshots
    from tire_pipeline.validation.signals import REFERENCE_COLUMNS, Reference

    if (champion := s.tracking.by_alias("production")) is None:
        return None, None
    version, digest = champion.tags["tire.version"], champion.tags["tire.snapshot"]
    if s.objects.head(snapshots.folder_of(digest) + "index.parquet") is None:
        log.warning("the snapshot %s of the model in production is gone: nothing to compare with", digest[:12])
        return None, None
    known = snapshots.load(s.objects, digest, columns=["path", "sha256", *REFERENCE_COLUMNS]).usable
    return Reference(version, known), _doubts(s, champion, known, snapshot)


def _doubts(s: Services, champion: RegisteredVersion, known: pd.DataFrame, snapshot: Snapshot) -> Doubter | None:
    """`known` are the usable rows of the champion's snapshot. An image of a group that it learnt from is not new."""
    import numpy as np

    from tire_pipeline.datasets import snapshots
    from tire_pipeline.evaluation.answers import answer
    from tire_pipeline.validation.label_errors import ROWS_MAX, doubter

    key = snapshots.split_key(champion.tags["tire.snapshot"], champion.tags["tire.split"])
    if s.objects.head(key) is None:
        return None
    usable = snapshot.usable
    new_N = ~learnt_by(s, champion.tags, usable, groups=True, known=known)
    labels = sorted(set(usable["label"][new_N]))
    with registered_bundle(s, champion.tags) as bundle:
        if labels != sorted(bundle.classes) or labels != sorted(set(usable["label"])) or new_N.sum() > ROWS_MAX:
            return None
        answers = answer(s.objects, bundle, usable, new_N, cache=image_cache(s), name=snapshot.digest)
    columns = [bundle.classes.index(label) for label in labels]
    name = f"the model in production (version {champion.version})"
    return doubter(name, np.flatnonzero(new_N), answers.scored.p_NK[:, columns], usable)


def publish(s: Services, record: Mapping[str, Any], html: str, index: pd.DataFrame) -> None:
    """Put the report beside the index, and where people look: into an MLflow run for each version. Safe to repeat."""
    from tire_pipeline.datasets.snapshots import folder_of
    from tire_pipeline.validation.report import figures

    version, digest = record["version"], record["snapshot"]
    quarantined = index.loc[index["error"] != "", ["path", "error"]].to_csv(index=False)
    made = {
        "report.html": (html, "text/html; charset=utf-8"),
        "quarantine.csv": (quarantined, "text/csv"),
        "report.json": (json.dumps(record, indent=1, ensure_ascii=False), "application/json"),
    }
    for name, (text, kind) in made.items():
        s.objects.put(folder_of(digest) + name, text.encode(), content_type=kind)
    tags = {"tire.data": f"{version}@{digest}", "tire.data_version": version, "tire.snapshot": digest}
    known = s.tracking.find_run("tire.data", tags["tire.data"])
    run_id = known or s.tracking.start_run(f"data {version}", params={}, tags=tags)
    s.tracking.log_metrics(run_id, {f"data/{name}": value for name, value in figures(record).items()})
    with tempfile.TemporaryDirectory(prefix="tire-report-") as tmp:
        for name, (text, _) in made.items():
            (Path(tmp) / name).write_text(text, encoding="utf-8")
        s.tracking.log_folder(run_id, Path(tmp))
    s.tracking.end_run(run_id)


def report_url(version: str, *, services: Services | None = None) -> str:
    """Where a browser shows the newest report on this dataset version; empty before there is one."""
    s = live(services)
    run_id = s.tracking.find_run("tire.data_version", version)
    return f"{s.tracking.run_url(run_id)}/artifacts/report.html" if run_id else ""
