"""The photographs that a comparison of loaders reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tire_pipeline import imaging
from tire_pipeline.errors import InputError
from tire_pipeline.sample import draw_sample

NUM_DRAWN = 100
SIZE = 320
JPEG_BYTES = 32_000


def write_pictures(folder: Path, *, num_images: int, source: Path | None = None) -> int:
    """Fill `folder` with `num_images` different files, and return how many there are.

    Photographs of `tire sample`, shifted and encoded anew at about 32 KB, for drawing each would take minutes; or the
    first pictures below `source` as they are, which may be fewer. Raises InputError where `source` has none.
    """
    folder.mkdir(parents=True)
    if source is None:
        return _write_drawn(folder, num_images)
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in imaging.EXTENSIONS)[:num_images]
    if not found:
        raise InputError(f"{source} has no pictures ({', '.join(imaging.EXTENSIONS)}). Name another --folder.")
    for number, path in enumerate(found):
        shutil.copyfile(path, folder / f"{number:06d}{path.suffix.lower()}")
    return len(found)


def _write_drawn(folder: Path, num_images: int) -> int:
    drawn = folder.with_name("drawn")
    draw_sample(drawn, num_images=min(NUM_DRAWN, num_images), size=SIZE)
    originals = [imaging.shrink(imaging.decode(p.read_bytes()), height=SIZE, width=SIZE) for p in _jpegs(drawn)]
    quality = _quality(originals[0])
    for number in range(num_images):
        again, which = divmod(number, len(originals))
        shifted = np.roll(originals[which], (7 * again, 3 * again), axis=(0, 1))
        (folder / f"{number:06d}.jpg").write_bytes(_encoded(shifted, quality))
    return num_images


def _jpegs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jpg"))


def _quality(pixels_HWC: imaging.Pixels) -> int:
    """The quality that comes nearest to JPEG_BYTES."""
    return min(range(50, 100), key=lambda quality: abs(len(_encoded(pixels_HWC, quality)) - JPEG_BYTES))


def _encoded(pixels_HWC: imaging.Pixels, quality: int) -> bytes:
    return imaging.encode_jpeg(np.ascontiguousarray(pixels_HWC), quality=quality)
