"""Stand-ins for S3, MLflow and PostgreSQL, in memory, with the behaviour that the product relies on."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
from botocore.exceptions import ClientError

from tire_pipeline.bundle import MODEL, Bundle
from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.imaging import Preprocessing, encode_png
from tire_pipeline.refs import EvaluationRef, TrainedRef
from tire_pipeline.settings import Settings
from tire_pipeline.stores.objects import ObjectStore
from tire_pipeline.stores.tracking import RegisteredVersion


def picture(seed: int = 0, *, size: int = 40) -> bytes:
    """A PNG of noise; every seed gives other bytes."""
    return encode_png(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


def client_error(status: int, code: str = "") -> ClientError:
    """What boto3 raises for an answer of S3."""
    return ClientError({"Error": {"Code": code or str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Op")


class FakeS3:
    """What ObjectStore asks of a boto3 client. `error` is raised by every call while it is set."""

    page = 3

    def __init__(self, bucket: str) -> None:
        self.bucket, self.stored, self.read, self.error = bucket, {}, [], None
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def put_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Body: bytes | BinaryIO,
        ContentType: str,
        IfMatch: str = "",
        IfNoneMatch: str = "",
    ) -> dict[str, Any]:
        self._check(Bucket)
        there = self.stored[Key][1] if Key in self.stored else ""
        if (IfMatch and IfMatch != there) or (IfNoneMatch and there):
            raise client_error(412, "PreconditionFailed")
        Body = Body if isinstance(Body, bytes) else Body.read()
        self.now += timedelta(seconds=1)
        etag = f'"{hashlib.md5(Body).hexdigest()}"'  # noqa: S324  (S3's own)
        self.stored[Key] = (Body, etag, self.now)
        return {"ETag": etag}

    def get_object(self, *, Bucket: str, Key: str, Range: str = "", IfMatch: str = "") -> dict[str, Any]:
        self._check(Bucket)
        if Key not in self.stored:
            raise client_error(404, "NoSuchKey")
        if IfMatch and IfMatch != self.stored[Key][1]:
            raise client_error(412, "PreconditionFailed")
        self.read.append(Key)
        data = self.stored[Key][0]
        if Range:
            first, last = map(int, Range.removeprefix("bytes=").split("-"))
            data = data[first : last + 1]
        return {"Body": io.BytesIO(data)}

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if Bucket != self.bucket or Key not in self.stored:  # HEAD has no body that could tell which is missing
            raise self.error or client_error(404)
        self._check(Bucket)
        body, etag, modified = self.stored[Key]
        return {"ContentLength": len(body), "ETag": etag, "LastModified": modified}

    def delete_object(self, *, Bucket: str, Key: str) -> None:
        self._check(Bucket)
        self.stored.pop(Key, None)

    def get_paginator(self, _: str) -> FakeS3:
        return self

    def paginate(self, *, Bucket: str, Prefix: str, Delimiter: str = "") -> Iterator[dict[str, Any]]:
        self._check(Bucket)
        found = sorted(k for k in self.stored if k.startswith(Prefix))
        if Delimiter:
            rests = (k[len(Prefix) :] for k in found)
            folders = sorted({r.split(Delimiter)[0] for r in rests if Delimiter in r})
            yield from self._in_pages("CommonPrefixes", [{"Prefix": f"{Prefix}{f}{Delimiter}"} for f in folders])
            return
        infos = [(k, *self.stored[k]) for k in found]
        contents = [{"Key": k, "Size": len(b), "ETag": e, "LastModified": m} for k, b, e, m in infos]
        yield from self._in_pages("Contents", contents)

    def _in_pages(self, name: str, items: list[Any]) -> Iterator[dict[str, Any]]:
        yield from ({name: items[i : i + self.page]} for i in range(0, len(items), self.page))

    def _check(self, bucket: str) -> None:
        if self.error is not None:
            raise self.error
        if bucket != self.bucket:
            raise client_error(404, "NoSuchBucket")


def object_store(*, bucket: str = "tire") -> tuple[ObjectStore, FakeS3]:
    """The real ObjectStore over a fake client that has the bucket `tire` alone."""
    client = FakeS3("tire")
    return ObjectStore(client, bucket=bucket, where="http://s3"), client


@dataclass
class FakeTracking:
    """MLflow's registry of one project. `fail_alias`: how many moves of an alias fail from now on;
    `fail_alias_named`: those of this one do. `then`: what happens once, after a method took effect on an alias and
    before its answer; where that raises, the answer is lost."""

    project: str = "tire-defect"
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    made: list[RegisteredVersion] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)
    runs: dict[str, dict[str, str]] = field(default_factory=dict)
    params: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    fail_alias: int = 0
    fail_alias_named: str = ""
    then: dict[tuple[str, str], Callable[[], object]] = field(default_factory=dict)

    def register(self, *, run_id: str, key: str, tags: Mapping[str, str]) -> RegisteredVersion:
        self.made.append(RegisteredVersion(len(self.made) + 1, run_id, {**tags, "tire.key": key}))
        return self.made[-1]

    def versions(self) -> Sequence[RegisteredVersion]:
        return self.made[::-1]

    def version_by_tag(self, tag: str, value: str) -> RegisteredVersion | None:
        return next((v for v in self.versions() if v.tags.get(tag) == value), None)

    def metrics(self, run_id: str) -> dict[str, float]:
        return self.values.get(run_id, {})

    def by_alias(self, alias: str) -> RegisteredVersion | None:
        found = next((v for v in self.made if v.version == self.aliases.get(alias)), None)
        self.then.pop(("by_alias", alias), bool)()
        return found

    def set_alias(self, alias: str, version: int) -> None:
        if self.fail_alias or alias == self.fail_alias_named:
            self.fail_alias = max(0, self.fail_alias - 1)
            raise ServiceUnavailable("MLflow did not answer")
        self.aliases[alias] = version
        self.then.pop(("set_alias", alias), bool)()

    def run_url(self, run_id: str) -> str:
        return f"http://mlflow/{run_id}"

    def start_run(self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        self.runs[name], self.params[name] = dict(tags), dict(params)
        return name

    def find_run(self, tag: str, value: str) -> str | None:
        return next((run_id for run_id, tags in self.runs.items() if tags.get(tag) == value), None)

    def newest_runs(self, *, param: str, value: str, limit: int) -> list[dict[str, str]]:
        found = [tags for run_id, tags in self.runs.items() if self.params.get(run_id, {}).get(param) == value]
        return found[::-1][:limit]

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], **_: Any) -> None:
        self.values.setdefault(run_id, {}).update(metrics)

    def log_folder(self, run_id: str, folder: Path, **_: Any) -> None:
        self.artifacts[run_id] = {p.name: p.read_bytes() for p in folder.iterdir()}

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.runs[run_id].update(tags)

    def end_run(self, run_id: str, **_: Any) -> None:
        assert run_id in self.runs


@dataclass
class FakeLedger:
    """The ledger's rows. `fail_records`: how many promotions fail to be recorded from now on. `locked` is who holds the
    promotion lock; None ends that session as PostgreSQL does, and frees the lock for another."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)
    alerts: dict[tuple[str, datetime], bool] = field(default_factory=dict)
    recorded_windows: dict[tuple[datetime, datetime], Mapping[str, Any]] = field(default_factory=dict)
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    locked: object = None
    fail_records: int = 0

    @contextmanager
    def promotion_lock(self, _: str) -> Iterator[Callable[[], None]]:
        assert not self.locked, "the promotion lock is no re-entrant one"
        holder = self.locked = object()

        def check_held() -> None:
            if self.locked is not holder:
                raise ServiceUnavailable("the lock was lost")

        try:
            yield check_held
        finally:
            if self.locked is holder:
                self.locked = None

    def record_promotion(self, **row: Any) -> None:
        assert self.locked, "the history is written under the lock"
        if self.fail_records:
            self.fail_records -= 1
            raise ServiceUnavailable("PostgreSQL did not answer")
        self.rows.append({**row, "at": datetime(2026, 1, 1, tzinfo=UTC)})

    def promotions(
        self, *, model: str, run_key: str | None = None, actions: Sequence[str] = (), limit: int = 200
    ) -> list[dict[str, Any]]:
        found = [r for r in self.rows if r["model"] == model and (not actions or r["action"] in actions)]
        return [r for r in found[::-1] if run_key is None or r["run_key"] == run_key][:limit]

    def record_snapshot(self, **row: Any) -> None:
        self.snapshots.append(row)

    def newest_snapshot(self) -> str:
        return str(self.snapshots[-1]["digest"])

    def predictions_between(self, start: datetime, end: datetime) -> list[dict[str, Any]]:
        return [p for p in self.seen if start <= p["at"] < end]

    def feedback_between(self, start: datetime, end: datetime) -> list[dict[str, Any]]:
        return []

    def record_window(self, *, start: datetime, end: datetime, metrics: Mapping[str, Any]) -> None:
        self.recorded_windows[start, end] = metrics

    def record_alert(self, *, rule: str, severity: str, message: str, window_end: datetime) -> int | None:
        delivered = self.alerts.setdefault((rule, window_end), False)
        return None if delivered else list(self.alerts).index((rule, window_end))

    def mark_delivered(self, alert_id: int) -> None:
        self.alerts[list(self.alerts)[alert_id]] = True

    def record_feedback(self, prediction_id: str, label: str, source: str) -> None:
        self.said.append((prediction_id, label))


def fake_services(home: Path, **settings: Any) -> SimpleNamespace:
    """Services over the fakes; `s3` is the fake client below `objects`."""
    objects, s3 = object_store()
    made = Settings(home=home, _env_file=None, **settings)  # type: ignore[call-arg]
    return SimpleNamespace(settings=made, objects=objects, s3=s3, tracking=FakeTracking(), ledger=FakeLedger())


def evaluation(
    key: str = "k1",
    *,
    value: float = 0.9,
    metric: str = "balanced_accuracy",
    passed: bool = True,
    snapshot: str = "s1",
    candidate: str = "cnn",
) -> EvaluationRef:
    """A finished evaluation of the training `key`, whose MLflow run is `run-<key>`."""
    trained = TrainedRef(candidate, key, f"run-{key}", f"digest-{key}", snapshot, "p1", "v1")
    figures = {metric: value, f"{metric}_low": value - 0.1, f"{metric}_high": value + 0.1}
    verb = "must reach 0.75" if passed else "must reach 0.95"
    return EvaluationRef(trained, figures, metric, 0.75, passed, f"{metric} {value:.3f}, {verb}", num_test=100)


def stored(fake: SimpleNamespace, key: str, *, model: bytes = b"a model", **given: Any) -> EvaluationRef:
    """The evaluation of a training whose bundle lies in the bucket."""
    made = evaluation(key, **given)
    with tempfile.TemporaryDirectory() as tmp:
        (Path(tmp) / MODEL).write_bytes(model)
        bundle = Bundle(Path(tmp), ["a", "b"], None, Preprocessing(8, 8), candidate="cnn", snapshot_digest="s1").save()
        fake.objects.upload_folder(Path(tmp), f"runs/{key}/bundle/")
    return replace(made, trained=replace(made.trained, bundle_digest=bundle.digest))
