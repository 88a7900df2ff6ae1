"""Checkpoints of one training: a folder each, written beside, brought to the disk, renamed, and read back only when
every byte is the one that was written.

    epoch-0003-step-000000/state.safetensors    every tensor      state.json      every number
                           complete.json        sha256 of both, written last
    .epoch-0003-step-000000.k2x9/               being written, or left by a process that was killed

The name says where the training goes on, so names sort by age. Two processes that train the same at the same time, a
try that was given up for dead and the next one, do not disturb one another: they write the same.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tire_pipeline.errors import OutOfResources

log = logging.getLogger(__name__)

KEPT = 3
TENSORS, NUMBERS, COMPLETE = "state.safetensors", "state.json", "complete.json"
FILES = (TENSORS, NUMBERS)
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Saved = tuple[dict[str, Tensor], dict[str, Any]]


class Mirror(Protocol):
    """A second place for checkpoints, which outlives this machine."""

    def offer(self, checkpoint: Path, *, urgent: bool = False) -> None:
        """Copy it when its time has come; before this returns, if it is urgent."""

    def fetch_newer(self, folder: Path, than: str) -> None:
        """Put the newest checkpoint that comes after the name `than` into the folder, if there is one."""


@dataclass
class Checkpoints:
    """The checkpoints of one training in `folder`. Within an epoch one is due every `every_s` seconds or `every_steps`
    steps; 0 has none."""

    folder: Path
    every_s: float = 60.0
    every_steps: int = 0
    mirror: Mirror | None = None
    _last_save: float = field(default_factory=time.monotonic)

    def due(self, step: int) -> bool:
        """Whether to save after this step of an epoch."""
        by_steps = self.every_steps and step % self.every_steps == 0
        return bool(by_steps or (self.every_s and time.monotonic() - self._last_save >= self.every_s))

    def save(
        self, tensors: dict[str, Tensor], numbers: dict[str, Any], *, epoch: int, step: int, urgent: bool = False
    ) -> None:
        """Write one that goes on at this epoch and step, and delete all but the newest three.

        Raises OutOfResources when the disk is full: the one before is then still there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"epoch-{epoch:04d}-step-{step:06d}"
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=self.folder))
        with self._room(part):
            _write(part, tensors, numbers)
            put_in_place(part, path)
            _to_disk(self.folder)
        self._last_save = time.monotonic()
        for old in self.all()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)  # another process may be at it
        if self.mirror is not None:
            self.mirror.offer(path, urgent=urgent)

    def newest(self) -> Saved | None:
        """The newest one that is whole, here or in the mirror, or None. What is damaged is said and passed over."""
        if self.mirror is not None:
            local = [path.name for path in self.all()]
            self.mirror.fetch_newer(self.folder, local[-1] if local else "")
        for path in reversed(self.all()):
            if problem := damage(path):
                log.warning("checkpoint %s is not used: %s", path.name, problem)
                continue
            log.info("going on from checkpoint %s", path.name)
            return load_file(path / TENSORS), json.loads((path / NUMBERS).read_bytes())
        return None

    def all(self) -> list[Path]:
        """The folders of checkpoints, oldest first."""
        return sorted(self.folder.glob("epoch-*"))

    def clear(self) -> None:
        """Delete them here; the mirror keeps its own."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _room(self, part: Path) -> Iterator[None]:
        """A full disk as the project's own error, without what was half written."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            shutil.rmtree(part, ignore_errors=True)
            if _errno(error) not in DISK_IS_FULL:
                raise
            kept = self.all()
            before = f"The last one, {kept[-1].name}, is kept" if kept else "There was none before"
            raise OutOfResources(
                f"The disk is full: a checkpoint cannot be written to {self.folder}. {before}. Make room and run the "
                "command again with --resume."
            ) from error


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, or nothing."""
    try:
        digests: dict[str, str] = json.loads((path / COMPLETE).read_bytes())
        wrong = [name for name in FILES if digest_of_file(path / name) != digests[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it is not complete ({error})"
    return f"other bytes than were written in {', '.join(wrong)}" if wrong else ""


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(folder: Path, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / TENSORS)
    (folder / NUMBERS).write_text(json.dumps(numbers))
    digests = {name: digest_of_file(folder / name) for name in FILES}
    (folder / COMPLETE).write_text(json.dumps(digests))
    for name in (*FILES, COMPLETE):
        _to_disk(folder / name)
    _to_disk(folder)


def put_in_place(part: Path, path: Path) -> None:
    """Rename, over one of that name: from before a resumption, or another process' and then the same."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        part.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(part)


def _to_disk(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk: a rename alone says nothing about what is in the file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _errno(error: Exception) -> int | None:
    """The system's error number, which safetensors has in its text alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None
