"""The directory a stack lives in: who may look into it, and what its refusals mean."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from tire_pipeline.errors import InputError, OutOfResources, ServiceUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

FREE_MIN_BYTES = 1_000_000_000
DIRECTORIES = ("run", "logs", "s3", "mlflow", "airflow", "cache")


@contextmanager
def readable_os_errors(home: Path) -> Iterator[None]:
    """A full disk becomes OutOfResources, a home that cannot be written to InputError."""
    try:
        yield
    except OSError as error:
        where = error.filename or home
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfResources(
                f"The disk is full: {where} could not be written ({error.strerror}). Free some space, or put the stack "
                "on another disk with TIRE_HOME. What was complete before is still there."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise InputError(
                f"The stack's directory {home} cannot be used: {where}: {error.strerror}. "
                "Choose one you may write to: TIRE_HOME=/some/where tire up"
            ) from error
        raise


def make_home(home: Path) -> None:
    """The home and its directories, closed to others. Raises OutOfResources below 1 GB of free disk.

    As root the home can be passed through but not listed (0711): PostgreSQL runs as another user and its data is there.
    """
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711 if os.geteuid() == 0 else 0o700)
    for name in DIRECTORIES:
        (home / name).mkdir(mode=0o700, exist_ok=True)
    if shortage := disk_shortage(home):
        raise OutOfResources(shortage)


def disk_shortage(home: Path) -> str:
    """What to do where less than 1 GB of disk is free, else nothing."""
    free = shutil.disk_usage(home).free
    if free >= FREE_MIN_BYTES:
        return ""
    return (
        f"Only {free / 1e9:.1f} GB are free on the disk of {home}; the stack needs 1 GB to start and 8 GB to work "
        "in. Free some space, or put it on another disk with TIRE_HOME."
    )


def exclusive(home: Path, *, timeout_s: float) -> AbstractContextManager[None]:
    """One `up` or `down` at a time for each home. Raises ServiceUnavailable."""
    return _locked(home / "run" / "lock", timeout_s, f"Another `tire up` or `tire down` for {home}")


def settling_ports(*, timeout_s: float) -> AbstractContextManager[None]:
    """One stack of this user at a time between choosing its ports and listening on them. Raises ServiceUnavailable.

    Without it two homes that start together choose the same block, and the second never comes up.
    """
    file = Path(tempfile.gettempdir()) / f"tire-ports-{os.geteuid()}.lock"
    return _locked(file, timeout_s, "Another stack that is choosing its ports")


@contextmanager
def _locked(file: Path, timeout_s: float, holder: str) -> Iterator[None]:
    """The lock dies with its holder, after kill -9 too."""
    lock = FileLock(file, timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout:
        raise ServiceUnavailable(f"{holder} is still at work after {timeout_s:.0f} s. Wait for it.") from None
    try:
        yield
    finally:
        lock.release()
