"""Rows that wait on disk while the ledger is away: append-only JSONL files, read back in order.

Several servers may share a folder (a candidate is checked beside the champion): each holds a lock on the file it
appends to, and replays only files that nobody holds. A replay that is cut off starts over, so writing must be
idempotent.
"""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from tire_pipeline.errors import OutOfResources, ServiceUnavailable

log = logging.getLogger(__name__)

Row = dict[str, Any]
Write = Callable[[Sequence[Row]], None]

MAX_BYTES = 256 * 2**20
FILE_BYTES = 4 * 2**20
REPLAY_ROWS = 500


class Spool:
    """Rows on disk. Not thread-safe: one writer thread owns it. A row's `at` is a datetime, the rest is JSON."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder, self._max_bytes = folder, max_bytes
        self._file: IO[str] | None = None

    def append(self, rows: Sequence[Row]) -> None:
        """Keep the rows, handed to the operating system before it returns. Raises OutOfResources when full."""
        if self._size() > self._max_bytes:
            raise OutOfResources(f"{self.folder} holds over {self._max_bytes / 2**20:.0f} MiB of predictions.")
        try:
            self._file = self._file or self._open()
            self._file.writelines(_encode(row) + "\n" for row in rows)
            self._file.flush()
            if self._file.tell() > FILE_BYTES:
                self.close()
        except OSError as error:
            raise OutOfResources(f"Predictions cannot be kept in {self.folder}: {error}.") from error

    def replay_file(self, write: Write) -> bool:
        """Hand the rows of the oldest file to `write` and remove it; False when no file is left to replay.

        Raises what `write` raises when the ledger is away (ServiceUnavailable), keeping the file. A file with rows
        that the ledger refuses for another reason is renamed to `.rejected` and logged, never tried again.
        """
        self.close()
        for path in sorted(self.folder.glob("*.jsonl")):
            with suppress(FileNotFoundError, BlockingIOError), path.open(encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _replay(path, file, write)
                return True
        return False

    def close(self) -> None:
        """Let go of the open file, so that it can be replayed."""
        if self._file:
            self._file.close()
            self._file = None

    def _open(self) -> IO[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{datetime.now().astimezone():%Y%m%dT%H%M%S%f}-{uuid4().hex[:8]}.jsonl"
        file = path.open("x", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def _size(self) -> int:
        size = 0
        for path in self.folder.glob("*.jsonl"):
            with suppress(FileNotFoundError):  # another server has just replayed it
                size += path.stat().st_size
        return size


def _replay(path: Path, file: IO[str], write: Write) -> None:
    try:
        for rows in _chunks(file):
            write(rows)
    except ServiceUnavailable:
        raise
    except Exception:  # whatever the database dislikes about a row, the rest of the spool must go on
        log.exception("%s holds rows that the ledger refuses; it is kept as .rejected", path)
        path.rename(path.with_suffix(".rejected"))
    else:
        path.unlink(missing_ok=True)


def _chunks(file: IO[str]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for line in file:
        if not line.endswith("\n"):
            log.warning("The last row of %s was cut off when its server was killed; it is lost", file.name)
            break
        chunk.append(_decode(line))
        if len(chunk) == REPLAY_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _encode(row: Row) -> str:
    return json.dumps({**row, "at": row["at"].isoformat()}, separators=(",", ":"))


def _decode(line: str) -> Row:
    row: Row = json.loads(line)
    return {**row, "at": datetime.fromisoformat(row["at"])}
