"""Steps on data: dataset versions, snapshots and splits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tire_pipeline.refs import SnapshotRef, SplitRef, check_version
from tire_pipeline.steps.live import live

if TYPE_CHECKING:
    from tire_pipeline.datasets.labels import Columns
    from tire_pipeline.datasets.snapshots import Snapshot
    from tire_pipeline.datasets.versions import PushSummary
    from tire_pipeline.wiring import Services

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


def push(
    folder: Path,
    *,
    version: str,
    labels: Path | None = None,
    columns: Columns | None = None,
    progress: Progress | None = None,
    services: Services | None = None,
) -> PushSummary:
    """Upload a folder as a dataset version; see `datasets.versions.push`."""
    from tire_pipeline.datasets import versions

    objects = live(services).objects
    return versions.push(objects, folder, version=version, labels=labels, columns=columns, progress=progress)


def validate(
    version: str,
    *,
    max_bad: float | None = None,
    progress: Progress | None = None,
    services: Services | None = None,
) -> SnapshotRef:
    """Snapshot a dataset version and judge it; the report lies beside the index. DataRefused says what is wrong."""
    check_version(version)  # before the libraries are loaded, which takes seconds
    from tire_pipeline.datasets import snapshots
    from tire_pipeline.validation import report
    from tire_pipeline.validation.expectations import Limits, judge

    s = live(services)
    snapshot = snapshots.build(s.objects, version, progress=progress)
    limits = Limits() if max_bad is None else Limits(bad_max=max_bad)
    record = report.as_record(version, snapshot.digest, snapshot.index, judge(snapshot.index, limits))
    folder = snapshots.folder_of(snapshot.digest)
    s.objects.put_json(folder + "report.json", record)
    html = report.as_html(record, snapshot.index, s.objects.get)
    s.objects.put(folder + "report.html", html.encode(), content_type="text/html; charset=utf-8")
    quarantined = snapshot.index.loc[snapshot.index["error"] != "", ["path", "error"]].to_csv(index=False)
    s.objects.put(folder + "quarantine.csv", quarantined.encode(), content_type="text/csv")
    if not record["ok"]:
        raise report.refusal(record)
    classes = sorted(record["classes"])
    s.ledger.record_snapshot(digest=snapshot.digest, version=version, num_images=record["num_usable"], classes=classes)
    log.info("snapshot %s of %s: %s", snapshot.digest[:12], version, record["classes"])
    return SnapshotRef(version, snapshot.digest, record["num_usable"], classes)


def split(snapshot: SnapshotRef, *, seed: int = 0, services: Services | None = None) -> SplitRef:
    """Assign every usable image to train, val or test by its group, prove that nothing leaks, and store it."""
    from tire_pipeline import splits
    from tire_pipeline.datasets import snapshots

    objects = live(services).objects
    usable = snapshots.load(objects, snapshot.digest).usable
    sides = splits.assign(usable, seed=seed)
    splits.prove(usable, sides)
    digest = splits.digest(usable, sides)
    frame = usable[["path", "group", "label"]].assign(side=sides)
    snapshots.write_frame(objects, _split_key(snapshot.digest, digest), frame)
    count = {side: int((sides == side).sum()) for side in splits.SIDES}
    log.info("split %s: %s", digest[:12], count)
    return SplitRef(snapshot, digest, count["train"], count["val"], count["test"])


def load_split(s: Services, split_ref: SplitRef) -> tuple[Snapshot, Any]:
    """The snapshot and the side of each of its usable rows, proven once more to leak nothing."""
    from tire_pipeline import splits
    from tire_pipeline.datasets import snapshots

    snapshot = snapshots.load(s.objects, split_ref.snapshot.digest)
    frame = snapshots.read_frame(s.objects, _split_key(split_ref.snapshot.digest, split_ref.digest))
    sides = snapshot.usable["path"].map(frame.set_index("path")["side"])
    splits.prove(snapshot.usable, sides)
    return snapshot, sides.to_numpy()


def _split_key(snapshot_digest: str, split_digest: str) -> str:
    return f"snapshots/{snapshot_digest}/splits/{split_digest}.parquet"


def split_of(s: Services, tags: Mapping[str, str]) -> SplitRef:
    """The split a registered version was tested on."""
    record = s.objects.get_json(f"snapshots/{tags['tire.snapshot']}/report.json")
    snapshot = SnapshotRef(tags["tire.version"], tags["tire.snapshot"], record["num_usable"], sorted(record["classes"]))
    return SplitRef(snapshot, tags["tire.split"], 0, 0, 0)


def list_versions(*, services: Services | None = None) -> list[dict[str, Any]]:
    """Every dataset version by name, with its marker; `complete` is False while an upload has none."""
    from tire_pipeline.datasets import versions

    found = versions.list_versions(live(services).objects)
    return [{"version": v, "complete": m is not None, "marker": m.id if m else None} for v, m in found]


def show_version(version: str, *, services: Services | None = None) -> dict[str, Any]:
    """What a version holds by its manifest or folders; no image is read."""
    from tire_pipeline.datasets.versions import read_version

    entries = read_version(live(services).objects, version)
    return {
        "version": version,
        "num_images": len(entries),
        "bytes": sum(e.size for e in entries),
        "num_groups": len({e.group or e.path for e in entries}),
        "classes": dict(sorted(Counter(e.label for e in entries).items())),
    }


def verify_version(
    version: str, *, progress: Progress | None = None, services: Services | None = None
) -> dict[str, Any]:
    """Read every image again and compare it with the manifest. DataRefused names the first that differ."""
    from tire_pipeline.datasets.versions import verify

    return {"version": version, "num_images": verify(live(services).objects, version, progress=progress)}


def pull_version(version: str, out: Path, *, services: Services | None = None) -> int:
    """Copy a version into a folder, which must be empty or not exist; returns the number of images."""
    from tire_pipeline.datasets.versions import pull

    return pull(live(services).objects, version, out)
