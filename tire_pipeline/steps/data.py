"""Steps on data: dataset versions, snapshots and splits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tire_pipeline.errors import DataRefused
from tire_pipeline.refs import ScanShard, SnapshotRef, SplitRef, check_version
from tire_pipeline.steps.data_report import measured, publish
from tire_pipeline.steps.live import live, loading

if TYPE_CHECKING:
    from tire_pipeline.datasets.labels import Columns
    from tire_pipeline.datasets.snapshots import Snapshot
    from tire_pipeline.datasets.versions import PushSummary
    from tire_pipeline.wiring import Services

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
# Of the index, what is judged; the rest would take as much memory again.
JUDGED = (
    *("path", "key", "sha256", "bytes", "label", "group", "split", "format", "width", "height", "camera"),
    *("brightness", "contrast", "sharpness", "saturation", "error"),
)
PROVEN_ANEW_MAX = 2_000  # images; a second


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


def plan_scan(version: str, *, services: Services | None = None) -> list[ScanShard]:
    """The pieces of a version that are worth scanning side by side before it is validated.

    None where little is new: `validate` reads what is missing.
    """
    s = live(services)
    from tire_pipeline.datasets import snapshots

    missing = snapshots.plan(s.objects, version)
    return missing if len(missing) > 1 else []


def scan(shard: ScanShard, *, services: Services | None = None) -> ScanShard:
    """Read and decode the images of one piece, in limited child processes."""
    s = live(services)
    from tire_pipeline.datasets import snapshots

    snapshots.scan(s.objects, shard)
    log.info("scanned %d images of %s: part %s", shard.num_images, shard.version, shard.part[:12])
    return shard


def validate(
    version: str,
    *,
    max_bad: float | None = None,
    max_probe: float | None = None,
    progress: Progress | None = None,
    services: Services | None = None,
) -> SnapshotRef:
    """Snapshot a dataset version and judge it, by itself and against the data of the model in production.

    The report lies beside the index and in MLflow, also when the version is refused. `max_bad`: the share of
    unreadable files that is let pass (None: 1 %); `max_probe`: the balanced accuracy of the metadata probe above which
    the version is refused (None: it only warns). DataRefused says what is wrong.
    """
    check_version(version)  # before the libraries are loaded, which takes seconds
    s = live(services)
    from tire_pipeline.datasets import snapshots

    with loading("tire_pipeline.validation.expectations"):
        snapshot = snapshots.build(s.objects, version, columns=JUDGED, progress=progress)
    from tire_pipeline.datasets import shards
    from tire_pipeline.validation import report
    from tire_pipeline.validation.expectations import judge
    from tire_pipeline.validation.suites import Limits

    limits = Limits(probe_max=max_probe) if max_bad is None else Limits(bad_max=max_bad, probe_max=max_probe)
    signals = measured(s, snapshot)
    verdicts = judge(snapshot.index, limits, signals)
    record = report.as_record(version, snapshot.digest, snapshot.index, verdicts, signals)
    publish(s, record, report.as_html(record, snapshot.index, s.objects.get), snapshot.index)
    for warning in record["warnings"]:
        log.warning("%s: %s", version, warning)
    if not record["ok"]:
        raise report.refusal(record)
    shards.pack(s.objects, snapshot.usable, name=snapshot.digest)
    classes = sorted(record["classes"])
    s.ledger.record_snapshot(digest=snapshot.digest, version=version, num_images=record["num_usable"], classes=classes)
    log.info("snapshot %s of %s: %s", snapshot.digest[:12], version, record["classes"])
    return SnapshotRef(version, snapshot.digest, record["num_usable"], classes)


def split(snapshot: SnapshotRef, *, seed: int = 0, services: Services | None = None) -> SplitRef:
    """Assign every usable image to train, val or test by its group, prove that nothing leaks, and store it.

    Beside the split lies a report: how many images of each class are on each side, which were left out and why, and
    what a person should know. The same snapshot and seed give the same split: what was decided is remembered.
    """
    s = live(services)
    from tire_pipeline import splits
    from tire_pipeline.datasets import snapshots
    from tire_pipeline.splits.memory import assign_and_remember

    loaded = snapshots.load(s.objects, snapshot.digest)
    usable, links = loaded.usable, splits.link(loaded.usable, splits.likeness_of(s.objects, loaded))
    made = assign_and_remember(s.objects, usable, links=links, project=s.settings.project, seed=seed)
    splits.prove(usable, made.sides, together=made.together)
    digest = splits.digest(usable, made.sides)
    frame = usable[["path", "label"]].assign(side=made.sides, **made.together)
    key = snapshots.split_key(snapshot.digest, digest)
    snapshots.write_frame(s.objects, key, frame)
    report = splits.summary(usable, made)
    s.objects.put_json(key.removesuffix("parquet") + "json", {"seed": seed, **report})
    count = report["counts"]
    log.info("split %s: %s, %d left out", digest[:12], count, len(made.left_out))
    for text in [*made.warnings, *(f"{path}: {why}" for path, why in islice(made.left_out.items(), 10))]:
        log.warning("split %s: %s", digest[:12], text)
    return SplitRef(snapshot, digest, count["train"], count["val"], count["test"])


def load_split(s: Services, split_ref: SplitRef) -> tuple[Snapshot, Any]:
    """The snapshot and the side of each of its usable rows (empty: left out), proven once more to leak nothing.

    The sides must give the digest that the split is named by. Near-duplicates are looked for again where that takes
    a second; beyond PROVEN_ANEW_MAX images the clusters that were found when it was split are believed.
    """
    from tire_pipeline import splits
    from tire_pipeline.datasets import snapshots

    snapshot = snapshots.load(s.objects, split_ref.snapshot.digest)
    usable, key = snapshot.usable, snapshots.split_key(split_ref.snapshot.digest, split_ref.digest)
    frame = snapshots.read_frame(s.objects, key).set_index("path").reindex(usable["path"]).set_index(usable.index)
    if splits.digest(usable, frame["side"]) != split_ref.digest:
        raise DataRefused(f"{key} is not the split it is named by: it was changed, or its snapshot was. Split again.")
    if len(usable) > PROVEN_ANEW_MAX:
        splits.prove(usable, frame["side"], together=frame[["group", "cluster"]])
    else:
        likeness = splits.compare_rows(snapshots.load_fingerprints(s.objects, snapshot))
        splits.prove(usable, frame["side"], links=splits.link(usable, likeness))
    return snapshot, frame["side"].to_numpy()


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
    from tire_pipeline.datasets.contents import read_version

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
    from tire_pipeline.datasets.contents import verify

    return {"version": version, "num_images": verify(live(services).objects, version, progress=progress)}


def pull_version(version: str, out: Path, *, services: Services | None = None) -> int:
    """Copy a version into a folder, which must be empty or not exist; returns the number of images."""
    from tire_pipeline.datasets.contents import pull

    return pull(live(services).objects, version, out)
