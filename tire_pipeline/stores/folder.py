"""Objects and runs in a folder, for a training that has neither S3 nor MLflow. One process writes it at a time."""

from __future__ import annotations

import io
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from botocore.exceptions import ClientError


class FolderClient:
    """What ObjectStore asks of S3, answered from files below `root`. The etag is size and time of writing."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_object(
        self, *, Bucket: str, Key: str, Body: bytes | BinaryIO, IfMatch: str = "", IfNoneMatch: str = "", **_: str
    ) -> dict[str, Any]:
        file = self._root / Key
        there = _etag(file) if file.is_file() else ""
        if (IfMatch and IfMatch != there) or (IfNoneMatch and there):
            raise _error(412, "PreconditionFailed")
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.part")
        with part.open("wb") as stream:
            if isinstance(Body, bytes):
                stream.write(Body)
            else:
                shutil.copyfileobj(Body, stream)
        part.replace(file)
        return {"ETag": _etag(file)}

    def get_object(self, *, Bucket: str, Key: str, Range: str = "", IfMatch: str = "") -> dict[str, Any]:
        if IfMatch and IfMatch != self.head_object(Bucket=Bucket, Key=Key)["ETag"]:
            raise _error(412, "PreconditionFailed")
        if not (file := self._root / Key).is_file():
            raise _error(404, "NoSuchKey")
        first, last = map(int, Range.removeprefix("bytes=").split("-")) if Range else (0, file.stat().st_size - 1)
        with file.open("rb") as stream:
            stream.seek(first)
            return {"Body": io.BytesIO(stream.read(last - first + 1))}

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        file = self._root / Key
        if not file.is_file():
            raise _error(404, "404")
        return {"ContentLength": file.stat().st_size, "ETag": _etag(file), "LastModified": _modified(file)}

    def delete_object(self, *, Bucket: str, Key: str) -> None:
        (self._root / Key).unlink(missing_ok=True)

    def get_paginator(self, _: str) -> FolderClient:
        return self

    def paginate(self, *, Bucket: str, Prefix: str, Delimiter: str = "") -> Iterator[dict[str, Any]]:
        keys = sorted(f.relative_to(self._root).as_posix() for f in self._root.rglob("*") if f.is_file())
        keys = [key for key in keys if key.startswith(Prefix)]
        if Delimiter:
            rests = {key[len(Prefix) :].split(Delimiter)[0] for key in keys if Delimiter in key[len(Prefix) :]}
            yield {"CommonPrefixes": [{"Prefix": f"{Prefix}{rest}{Delimiter}"} for rest in sorted(rests)]}
            return
        files = [(key, self._root / key) for key in keys]
        yield {
            "Contents": [
                {"Key": key, "Size": f.stat().st_size, "ETag": _etag(f), "LastModified": _modified(f)}
                for key, f in files
            ]
        }


class FolderTracking:
    """The part of Tracking that a training writes to: `run.json`, `metrics.jsonl` and the artifacts of each run."""

    def __init__(self, root: Path, *, project: str) -> None:
        self._root, self.project = root, project

    def start_run(self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        run_id = uuid.uuid4().hex
        (self._root / run_id).mkdir(parents=True)
        self._write(run_id, {"name": name, "params": dict(params), "tags": dict(tags), "status": "RUNNING"})
        return run_id

    def find_run(self, tag: str, value: str) -> str | None:
        """None: a folder has one run, and nobody asked for it before."""
        return None

    def newest_runs(self, *, param: str, value: str, limit: int) -> list[dict[str, str]]:
        """None either."""
        return []

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0, at_ms: int = 0) -> None:
        with (self._root / run_id / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "at_ms": at_ms, **metrics}) + "\n")

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        record = self._read(run_id)
        self._write(run_id, {**record, "tags": {**record["tags"], **tags}})

    def log_folder(self, run_id: str, folder: Path, *, to: str | None = None) -> None:
        shutil.copytree(folder, self._root / run_id / "artifacts" / (to or ""), dirs_exist_ok=True)

    def end_run(self, run_id: str, *, status: str = "FINISHED") -> None:
        self._write(run_id, {**self._read(run_id), "status": status})

    def _read(self, run_id: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self._root / run_id / "run.json").read_text())
        return record

    def _write(self, run_id: str, record: Mapping[str, Any]) -> None:
        (self._root / run_id / "run.json").write_text(json.dumps(record, indent=1))


def _etag(file: Path) -> str:
    stat = file.stat()
    return f'"{stat.st_size:x}-{stat.st_mtime_ns:x}"'


def _modified(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)


def _error(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "folder")
