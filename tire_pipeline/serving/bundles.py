"""Bundles on this server's disk: downloaded once, verified, the last good one remembered for a start without S3."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tire_pipeline.bundle import MANIFEST
from tire_pipeline.errors import InputError

KEEP = 3

Download = Callable[[str, Path], object]


@dataclass(frozen=True)
class Target:
    """What should answer: a registered version, its bundle's digest (64 hex) and the S3 prefix where it lies."""

    version: int
    digest: str
    prefix: str


class BundleCache:
    """`bundles/<digest>` and `current.json` below `folder`. Several servers may share it: entries appear whole."""

    def __init__(self, folder: Path, *, project: str, download: Download) -> None:
        self._folder, self._project, self._download = folder, project, download

    def path(self, digest: str) -> Path:
        return self._folder / "bundles" / digest

    def fetch(self, target: Target) -> Path:
        """The folder of the target's bundle, downloaded unless it is there.

        Raises InputError when what lies at the prefix is not the bundle of that digest, ServiceUnavailable when the
        store does not answer.
        """
        path = self.path(target.digest)
        if path.is_dir():
            _check_digest(path, target)
            os.utime(path)  # used last: not the next to be deleted
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as temporary:
            folder = Path(temporary) / target.digest
            self._download(target.prefix, folder)
            _check_digest(folder, target)
            try:
                folder.rename(path)
            except OSError:  # another server was faster
                if not path.is_dir():
                    raise
        return path

    def discard(self, digest: str) -> None:
        """Forget a bundle that turned out bad, so that the next try downloads it afresh."""
        shutil.rmtree(self.path(digest), ignore_errors=True)

    def remember(self, target: Target) -> None:
        """Note the bundle that answers now, and delete all but the `KEEP` last used."""
        os.utime(self.path(target.digest))
        write_whole(self._folder / "current.json", json.dumps({"project": self._project, **asdict(target)}))
        bundles = [p for p in (self._folder / "bundles").iterdir() if not p.name.startswith(".")]
        for path in sorted(bundles, key=lambda p: p.stat().st_mtime, reverse=True)[KEEP:]:
            shutil.rmtree(path, ignore_errors=True)

    def remembered(self) -> Target | None:
        """The bundle that answered last for this project, or None."""
        try:
            record = json.loads((self._folder / "current.json").read_text())
        except FileNotFoundError:
            return None
        return Target(**record) if record.pop("project") == self._project else None


def write_whole(file: Path, text: str) -> None:
    """Put the text in the file's place at once, so that whoever reads finds all of the old one or all of the new."""
    part = file.with_name(f".{file.name}-{os.getpid()}")
    part.write_text(text)
    part.replace(file)


def _check_digest(folder: Path, target: Target) -> None:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise InputError(f"Version {target.version} has no bundle below {target.prefix}: {MANIFEST} is missing.")
    if (found := hashlib.sha256(manifest.read_bytes()).hexdigest()) != target.digest:
        raise InputError(
            f"The bundle below {target.prefix} has digest {found[:12]}…, version {target.version} was registered with "
            f"{target.digest[:12]}…. It was changed after it was registered: register its run again."
        )
