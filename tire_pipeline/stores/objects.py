"""Objects in S3: the one place that speaks its protocol.

Errors come out as the project's own: a missing bucket or a wrong key pair is an InputError that says the fix, a
server that does not answer is a ServiceUnavailable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from importlib.util import find_spec
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

    def __init__(self, client: Any, *, bucket: str, where: str, make_reader: Callable[[], Any] | None = None) -> None:
        self._client, self.bucket, self._where, self._make_reader = client, bucket, where, make_reader

    def get(self, key: str, *, etag: str = "") -> bytes:
        """The object's bytes. Raises InputError when it does not exist, or is not the one of `etag` (if given)."""
        condition = {"IfMatch": f'"{etag}"'} if etag else {}
        with self._errors(key):
            data: bytes = self._client.get_object(Bucket=self.bucket, Key=key, **condition)["Body"].read()
        return data

    def stream(self, key: str, *, etag: str = "", piece_bytes: int = 2**20) -> Iterator[bytes]:
        """The bytes of an object that may be larger than memory, in pieces. Errors as of `get`."""
        condition = {"IfMatch": f'"{etag}"'} if etag else {}
        with self._errors(key), self._client.get_object(Bucket=self.bucket, Key=key, **condition)["Body"] as body:
            while piece := body.read(piece_bytes):
                yield piece

    def get_json(self, key: str) -> Any:
        return json.loads(self.get(key))

    def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> str:
        """Write the whole object, atomically as S3 does; returns its etag."""
        return self._put(key, data, ContentType=content_type)

    def put_if(self, key: str, data: bytes, *, etag: str) -> bool:
        """Write the object if it still has this etag (or is not there, for an empty one). Whether it was written."""
        condition = {"IfMatch": f'"{etag}"'} if etag else {"IfNoneMatch": "*"}
        try:
            self._put(key, data, **condition)
        except TireError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and cause.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                return False
            raise
        return True

    def put_file(self, key: str, path: Path) -> None:
        """Write a file of up to 5 GB as an object, without holding it in memory."""
        with path.open("rb") as file:
            self._put(key, file)

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

    def get_many(self, keys: Sequence[str], *, workers: int = WORKERS, ahead: int = 4 * WORKERS) -> Iterator[bytes]:
        """The objects' bytes in the order of `keys`: at most `workers` in flight, and `ahead` of the caller."""
        return _ordered(self.fetch, keys, workers, ahead)

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        """`length` bytes of the object from byte `start` on."""
        if self._reader is not None:
            with suppress(*self._reader_errors):
                return bytes(self._reader.get_range(key, start=start, length=length))
        with self._errors(key):
            span = f"bytes={start}-{start + length - 1}"
            data: bytes = self._client.get_object(Bucket=self.bucket, Key=key, Range=span)["Body"].read()
        return data

    def fetch(self, key: str, *, etag: str = "") -> bytes:
        """`get` by the reader, which takes a quarter of the processor time. Where it fails the client has the last
        word: it knows keys such as `a//b`, and says in our words what is wrong."""
        if self._reader is not None:
            with suppress(*self._reader_errors):
                condition = {"if_match": f'"{etag}"'} if etag else {}
                return bytes(self._reader.get(key, options=condition).bytes())
        return self.get(key, etag=etag)

    @cached_property
    def _reader(self) -> Any:
        return self._make_reader() if self._make_reader else None

    @cached_property
    def _reader_errors(self) -> tuple[type[Exception], ...]:
        from obstore.exceptions import BaseError  # noqa: PLC0415  (the serving image has no obstore)

        return (BaseError, OSError, ValueError)

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

        for _ in _ordered(upload, files, WORKERS, 4 * WORKERS):
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

    def _put(self, key: str, body: Any, **options: str) -> str:
        with self._errors(key):
            answer = self._client.put_object(
                Bucket=self.bucket, Key=key, Body=body, **{"ContentType": "application/octet-stream", **options}
            )
        etag: str = answer["ETag"].strip('"')
        return etag

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
        if status == 412:
            return InputError(f"s3://{self.bucket}/{key} was changed while it was being read. Run the step again.")
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
    make_reader = (lambda: _reader(settings)) if find_spec("obstore") else None
    where = settings.s3_endpoint_url or "AWS"
    return ObjectStore(client, bucket=settings.bucket, where=where, make_reader=make_reader)


def _reader(settings: Settings) -> Any:
    """An obstore client of the bucket, or None where there are no credentials (which boto3 explains)."""
    from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415  (the serving image has no obstore)
    from obstore.store import S3Store  # noqa: PLC0415

    key_id, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    options: dict[str, Any] = {
        "region": settings.s3_region,
        "virtual_hosted_style_request": not settings.s3_endpoint_url,
        "client_options": {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(minutes=5)},
        "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
    }
    if settings.s3_endpoint_url:
        options["endpoint"] = settings.s3_endpoint_url
        options["client_options"]["allow_http"] = settings.s3_endpoint_url.startswith("http://")
    if key_id and secret:
        options |= {"access_key_id": key_id.get_secret_value(), "secret_access_key": secret.get_secret_value()}
    else:
        try:
            options["credential_provider"] = Boto3CredentialProvider()
        except ValueError:
            return None
    return S3Store(settings.bucket, **options)


def _ordered(function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int) -> Iterator[R]:
    """`map` over threads with results in order and at most `ahead` submitted before the caller wants them."""
    pending: list[Any] = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.pop(0).result()
            while pending:
                yield pending.pop(0).result()
        finally:
            for future in pending:
                future.cancel()
