"""The cache of decoded images: one uint8 array for the same images at the same size, filled once, shared on the host.

    <content>.u8     the pixels, row by row          <content>.json   that it is complete, and checksums
    <content>.part   being filled                    <content>.lock   held by the process that looks or fills

`<content>` follows from the images, the size, and the code and libraries that make pixels: nothing stale is ever read.
Who maps an array holds a shared lock (flock) on it until it is unmapped; who fills one, an exclusive lock. A file that
nobody has locked may be deleted.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pandas as pd
import PIL
import simplejpeg
from filelock import FileLock

from tire_pipeline import imaging
from tire_pipeline.datasets.pixels import decode_shards, locate
from tire_pipeline.datasets.remote import RemoteImages
from tire_pipeline.datasets.shards import pack
from tire_pipeline.refs import digest_of
from tire_pipeline.stores.objects import ObjectStore

SPARE_BYTES = 500_000_000
CHECKED_ROWS = 1024

log = logging.getLogger(__name__)
Shape = tuple[int, int, int, int]
# What gives pixels for row numbers: `images[rows]` is uint8 (len(rows), H, W, 3), and `images.shape` (N, H, W, 3).
Images = imaging.Pixels | RemoteImages


@dataclass(frozen=True)
class ImageCache:
    """The folder of a host's decoded images and how many bytes they may take; the least recently used go first."""

    folder: Path
    max_bytes: int = 100_000_000_000


@dataclass(frozen=True)
class CachedFile:
    """A file of the cache. `used_at` in seconds; `free`: nobody maps or fills it."""

    path: Path
    size: int
    used_at: float
    free: bool


def open_images(
    store: ObjectStore,
    index: pd.DataFrame,
    *,
    height: int,
    width: int,
    how: str,
    cache: ImageCache,
    name: str,
) -> Images:
    """The images of `index`, the rows of snapshot `name` (its digest) or some of them, by `imaging.resize`.

    The first caller on a host decodes, others wait for it and share the mapped array, which is read-only. An array
    that fails its check is filled again. Where neither the disk nor `cache.max_bytes` has room, the images are decoded
    anew each time they are asked for, and the log says so. DataRefused names an image that is not what was indexed.
    """
    cache.folder.mkdir(parents=True, exist_ok=True)
    path = cache.folder / f"{_content(index, height, width, how)}.u8"
    shape = (len(index), height, width, 3)
    with FileLock(path.with_suffix(".lock")):
        if (images := _open(path, shape)) is not None:
            return images
        rows = locate(index, pack(store, index, name=name))
        with _room(cache, path, size=int(np.prod(shape))) as part:
            if part is None:
                return RemoteImages(store, rows, height=height, width=width, how=how)
            return _fill(store, rows, part, path, shape, how)


def victims(files: Sequence[CachedFile], *, needed: int, max_bytes: int, disk_free: int) -> list[CachedFile] | None:
    """Which files to delete for `needed` bytes more, least recently used first; None where all of them would not do.

    The files together stay within `max_bytes`, and SPARE_BYTES of the disk stay free. Pure.
    """
    excess = max(sum(f.size for f in files) + needed - max_bytes, needed + SPARE_BYTES - disk_free)
    chosen: list[CachedFile] = []
    for file in sorted((f for f in files if f.free), key=lambda f: f.used_at):
        if excess <= 0:
            break
        chosen.append(file)
        excess -= file.size
    return chosen if excess <= 0 else None


def _content(index: pd.DataFrame, height: int, width: int, how: str) -> str:
    images = hashlib.sha256("".join(index["sha256"]).encode()).hexdigest()
    code = hashlib.sha256(Path(imaging.__file__).read_bytes()).hexdigest()
    libraries = [PIL.__version__, cv2.__version__, simplejpeg.__version__]
    return digest_of([images, height, width, how, code, libraries])[:32]


def _open(path: Path, shape: Shape) -> imaging.Pixels | None:
    """The mapped array, if it is there and passes its check."""
    try:
        mark = json.loads(path.with_suffix(".json").read_text())
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if mark["shape"] != list(shape) or path.stat().st_size != int(np.prod(shape)):
                raise ValueError
            images = _map(file, shape)
        if mark["crc32"] != _checksums(images):
            raise ValueError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        log.warning("the cached images in %s are damaged; they are decoded again", path)
        return None
    path.touch()  # least recently used goes by this
    return images


def _map(file: BinaryIO, shape: Shape) -> imaging.Pixels:
    """The array. The mapping has a duplicate of the file's descriptor and with it its lock, until it is collected."""
    return np.memmap(file, np.uint8, mode="r", shape=shape)


def _checksums(images: imaging.Pixels) -> list[int]:
    """CRC-32 of up to 1,024 rows, evenly spread: finds an array that was torn or overwritten in a fraction of a second
    whatever its size. A single flipped bit is the disk's own checksums' to find."""
    rows = np.unique(np.linspace(0, len(images) - 1, CHECKED_ROWS).astype(int))
    return [zlib.crc32(images[row]) for row in rows]


@contextmanager
def _room(cache: ImageCache, path: Path, *, size: int) -> Iterator[BinaryIO | None]:
    """An exclusively locked file of `size` bytes that are already the disk's, or None with the reason in the log.

    Reserved under one lock for the whole folder, so that two processes do not both take the last free space. Deleted
    at the end unless it was renamed."""
    part = path.with_suffix(".part")
    with FileLock(cache.folder / "room.lock"):
        file = _reserve(cache, part, size)
    try:
        yield file
    finally:
        if file is not None:
            part.unlink(missing_ok=True)
            file.close()


def _reserve(cache: ImageCache, part: Path, size: int) -> BinaryIO | None:
    part.unlink(missing_ok=True)  # left by a process that was killed: we hold the lock of this content
    disk_free = shutil.disk_usage(cache.folder).free
    chosen = victims(_files(cache.folder), needed=size, max_bytes=cache.max_bytes, disk_free=disk_free)
    for file in chosen or ():
        log.info("deleting %s (%.1f MB) to make room", file.path, file.size / 1e6)
        file.path.unlink(missing_ok=True)
        file.path.with_suffix(".json").unlink(missing_ok=True)
    if chosen is not None:
        opened = part.open("w+b")
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
            os.posix_fallocate(opened.fileno(), 0, size)
        except OSError as error:
            opened.close()
            part.unlink()
            if error.errno != errno.ENOSPC:
                raise
        else:
            return opened
    log.warning(
        "%s has no room for %.1f MB of decoded images (%.1f MB free, at most %.1f MB for the cache): every epoch "
        "decodes them from shards, with the same result but slower. Free some space, or raise TIRE_CACHE_MAX_BYTES.",
        cache.folder,
        *(number / 1e6 for number in (size, disk_free, cache.max_bytes)),
    )
    return None


def _files(folder: Path) -> list[CachedFile]:
    found = []
    for path in [*folder.glob("*.u8"), *folder.glob("*.part")]:
        with suppress(FileNotFoundError):  # renamed just now by the process that filled it
            stat = path.stat()
            found.append(CachedFile(path, stat.st_size, stat.st_mtime, _is_free(path)))
    return found


def _is_free(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _fill(store: ObjectStore, rows: pd.DataFrame, part: BinaryIO, path: Path, shape: Shape, how: str) -> imaging.Pixels:
    """Decode into `part`, which becomes `path` once all of it is on the disk."""
    size = int(np.prod(shape[1:]))

    def write(row: int, pixels_HWC: imaging.Pixels) -> None:
        # Not through a mapping: its page faults cost as much again, and a full disk would be a SIGBUS.
        os.pwrite(part.fileno(), pixels_HWC.data, row * size)

    decode_shards(store, rows, height=shape[1], width=shape[2], how=how, write=write)
    os.fsync(part.fileno())
    images = _map(part, shape)
    path.with_suffix(".json").write_text(json.dumps({"shape": shape, "crc32": _checksums(images)}))
    Path(part.name).replace(path)
    fcntl.flock(part, fcntl.LOCK_SH)
    return images
