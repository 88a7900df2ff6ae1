"""The copy of checkpoints in S3, from which another machine can go on."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.stores.objects import ObjectStore
from tire_pipeline.training.checkpoints import COMPLETE, FILES, KEPT, damage, put_in_place

log = logging.getLogger(__name__)

URGENT_S = 1.5


@dataclass
class S3Mirror:
    """Checkpoints below `prefix`, copied by a thread, at most one at a time and one every `every_s` seconds.

    A copy that fails is said and tried again with the next checkpoint: training needs the disk alone.
    """

    objects: ObjectStore
    prefix: str
    every_s: float = 60.0
    _started: float = field(default_factory=time.monotonic)
    _copy: threading.Thread | None = None

    def offer(self, checkpoint: Path, *, urgent: bool = False) -> None:
        """Copy it if the last copy was long enough ago; if urgent, now, for as long as a dying process can wait."""
        busy = self._copy is not None and self._copy.is_alive()
        if not urgent and (busy or time.monotonic() - self._started < self.every_s):
            return
        self._started = time.monotonic()
        # Links, because the checkpoint may be deleted while it is copied: three are kept here.
        held = Path(tempfile.mkdtemp(prefix=f".{checkpoint.name}.", dir=checkpoint.parent))
        for file in (*FILES, COMPLETE):
            (held / file).hardlink_to(checkpoint / file)
        # A thread that does not keep the process alive: who was told to stop does not wait for a slow network.
        self._copy = threading.Thread(target=self._put, args=(held, checkpoint.name), name="mirror", daemon=True)
        self._copy.start()
        if urgent:
            self._copy.join(URGENT_S)
            if self._copy.is_alive():
                log.warning("checkpoint %s is on this disk alone: its copy to S3 did not end in time", checkpoint.name)

    def fetch_newer(self, folder: Path, than: str) -> None:
        """Download the newest complete one that comes after `than`, if there is one."""
        for name in sorted(self._complete(), reverse=True):
            if name <= than:
                return
            folder.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder))
            self.objects.download_folder(f"{self.prefix}{name}/", part)
            if problem := damage(part):
                log.warning("checkpoint %s in S3 is not used: %s", name, problem)
                shutil.rmtree(part)
                continue
            put_in_place(part, folder / name)
            return

    def close(self) -> None:
        """Wait for the copy in progress."""
        if self._copy is not None:
            self._copy.join()

    def clear(self) -> None:
        """Delete every checkpoint in S3."""
        self._delete(self._names())

    def _put(self, held: Path, name: str) -> None:
        try:
            for file in (*FILES, COMPLETE):  # in this order: what has its last file has all
                self.objects.put_file(f"{self.prefix}{name}/{file}", held / file)
            self._delete(sorted(self._names())[:-KEPT])
        except (ServiceUnavailable, InputError) as error:
            log.warning("checkpoint %s was not copied to S3: %s", name, error)
        finally:
            shutil.rmtree(held)

    def _names(self) -> list[str]:
        return list(self.objects.list_folders(self.prefix))

    def _complete(self) -> list[str]:
        return [n for n in self._names() if self.objects.head(f"{self.prefix}{n}/{COMPLETE}") is not None]

    def _delete(self, names: Sequence[str]) -> None:
        for name in names:
            for file in (COMPLETE, *FILES):  # the mark first: what is half deleted is not complete
                self.objects.delete(f"{self.prefix}{name}/{file}")
