"""Objects in S3: the one place that speaks its protocol.

Errors come out as the project's own: a missing bucket or a wrong key pair is an InputError that says the fix, a
server that does not answer is a ServiceUnavailable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from tire_pipeline.errors import InputError, ServiceUnavailable, TireError
from tire_pipeline.settings import Settings

WORKERS = 16

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ObjectInfo:
    """One listed object; `size` in bytes, `etag` without quotes."""

    key: str
    size: int
    etag: str
    modified: datetime


class ObjectStore:
    """One bucket. All methods are safe to repeat and may be called from several threads."""

    def __init__(self, client: Any, *, bucket: str, where: str) -> None:
        self._client, self.bucket, self._where = client, bucket, where

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises InputError when it does not exist."""
        with self._errors(key):
            data: bytes = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return data

    def get_json(self, key: str) -> Any:
        return json.loads(self.get(key))

    def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> str:
        """Write the whole object, atomically as S3 does; returns its etag."""
        with self._errors(key):
            answer = self._client.put_object(Bucket=self.bucket, Key=key, Body=data, ContentType=content_type)
        etag: str = answer["ETag"].strip('"')
        return etag

    def put_json(self, key: str, value: Any) -> str:
        """Canonical JSON, so that the same value has the same etag."""
        data = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode()
        return self.put(key, data, content_type="application/json")

    def delete(self, key: str) -> None:
        """Remove the object; one that is not there is no error."""
        with self._errors(key):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def head(self, key: str) -> ObjectInfo | None:
        """The object's size, etag and modification time, or None when it does not exist."""
        try:
            answer = self._client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise self._explain(error, key) from error
        except BotoCoreError as error:
            raise self._explain(error, key) from error
        return ObjectInfo(key, answer["ContentLength"], answer["ETag"].strip('"'), answer["LastModified"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below `prefix`, in key order, page by page."""
        for page in self._pages(Prefix=prefix):
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"], item["Size"], item["ETag"].strip('"'), item["LastModified"])

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Names of the folders directly below `prefix`; what is in them is not listed."""
        for page in self._pages(Prefix=prefix, Delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"][len(prefix) :].rstrip("/")

    def get_many(self, keys: Sequence[str], *, workers: int = WORKERS) -> Iterator[bytes]:
        """The objects' bytes in the order of `keys`, a bounded number in flight."""
        return _ordered(self.get, keys, workers)

    def download_folder(self, prefix: str, folder: Path) -> Path:
        """Copy everything below `prefix` into `folder` (made if missing); existing files are overwritten."""
        infos = [i for i in self.list(prefix) if not i.key.endswith("/")]  # S3's console makes folders like that
        if not infos:
            raise InputError(f"s3://{self.bucket}/{prefix} is empty: there is nothing to download.")
        for info, data in zip(infos, self.get_many([i.key for i in infos]), strict=True):
            path = folder / info.key[len(prefix) :].lstrip("/")
            if not path.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"The key {info.key!r} would be written outside {folder}. Rename the object.")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    def upload_folder(self, folder: Path, prefix: str) -> None:
        """Copy every file of `folder` below `prefix`, then read each back and compare: 'done' means stored."""
        files = sorted(p for p in folder.rglob("*") if p.is_file())

        def upload(path: Path) -> None:
            key, data = f"{prefix}{path.relative_to(folder).as_posix()}", path.read_bytes()
            self.put(key, data)
            if hashlib.sha256(self.get(key)).digest() != hashlib.sha256(data).digest():
                raise ServiceUnavailable(f"s3://{self.bucket}/{key} reads back other bytes than were written. Retry.")

        for _ in _ordered(upload, files, WORKERS):
            pass

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there."""
        try:
            self._client.head_bucket(Bucket=self.bucket)
        except ClientError:
            with self._errors(""):
                self._client.create_bucket(Bucket=self.bucket)
        except BotoCoreError as error:
            raise self._explain(error, "") from error

    def _pages(self, **arguments: str) -> Iterator[dict[str, Any]]:
        with self._errors(arguments["Prefix"]):
            yield from self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **arguments)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, key) from error

    def _explain(self, error: ClientError | BotoCoreError, key: str) -> TireError:
        if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
            return InputError(
                f"No key pair for S3 at {self._where} was found. Set TIRE_S3_ACCESS_KEY_ID and "
                "TIRE_S3_SECRET_ACCESS_KEY, or log in to AWS; `tire up` starts a stack with its own."
            )
        if isinstance(error, ParamValidationError):
            return InputError(f"S3 cannot be asked for s3://{self.bucket}/{key}: {error}. Check TIRE_BUCKET.")
        if not isinstance(error, ClientError):
            return ServiceUnavailable(
                f"S3 at {self._where} did not answer ({type(error).__name__}). Is it running? `tire status` tells; "
                "TIRE_S3_ENDPOINT_URL is the address."
            )
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            return InputError(
                f"The bucket {self.bucket!r} does not exist at {self._where}. Create it, or set TIRE_BUCKET."
            )
        if code in ("NoSuchKey", "404"):
            return InputError(f"s3://{self.bucket}/{key} does not exist at {self._where}.")
        if status in (401, 403):
            return InputError(
                f"S3 at {self._where} refuses these credentials for s3://{self.bucket}/{key} ({code}). Check "
                "TIRE_S3_ACCESS_KEY_ID and TIRE_S3_SECRET_ACCESS_KEY, or the AWS profile, and the bucket's policy."
            )
        return ServiceUnavailable(f"S3 at {self._where} answered {status} {code} for s3://{self.bucket}/{key}. Retry.")


def connect(settings: Settings) -> ObjectStore:
    """The bucket of the settings. Contacts nothing yet; clients may be shared by threads, not by processes.

    Raises InputError for an endpoint that is no URL, or for half a key pair.
    """
    secret = settings.s3_secret_access_key
    key_id = settings.s3_access_key_id
    try:
        client = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint_url or None,
            region_name=settings.s3_region,
            aws_access_key_id=key_id.get_secret_value() if key_id else None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            config=Config(
                max_pool_connections=2 * WORKERS,
                retries={"mode": "standard", "total_max_attempts": 4},
                connect_timeout=5,
                s3={"addressing_style": "path"} if settings.s3_endpoint_url else {},
            ),
        )
    except (ValueError, BotoCoreError) as error:
        raise InputError(
            f"S3 cannot be addressed: {error}. TIRE_S3_ENDPOINT_URL looks like http://HOST:PORT (empty for AWS), and "
            "TIRE_S3_ACCESS_KEY_ID and TIRE_S3_SECRET_ACCESS_KEY are set both or neither."
        ) from None
    return ObjectStore(client, bucket=settings.bucket, where=settings.s3_endpoint_url or "AWS")


def _ordered(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`map` over threads with results in order and at most 4 × workers submitted ahead."""
    pending: list[Any] = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 4 * workers:
                    yield pending.pop(0).result()
            while pending:
                yield pending.pop(0).result()
        finally:
            for future in pending:
                future.cancel()
