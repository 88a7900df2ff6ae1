"""What the index says of one encoded picture. Run inside a limited child process (see `sandbox`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

import cv2
import numpy as np

from tire_pipeline import imaging
from tire_pipeline.datasets.endings import appended, other_kind
from tire_pipeline.errors import InputError
from tire_pipeline.fingerprints import fingerprint
from tire_pipeline.imaging import FORMATS, Decoded, Pixels

ASPECT_MAX = 50


@dataclass(frozen=True)
class Facts:
    """A picture's facts, or the reason why it is quarantined (`error`) and nothing else.

    Width and height are those of the upright picture. `phash`: 16 hex digits. `fingerprint`: see `fingerprints`.
    """

    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    orientation: int = 1
    camera: str = ""
    captured_at: str = ""
    brightness: float = 0.0
    contrast: float = 0.0
    sharpness: float = 0.0
    saturation: float = 0.0
    phash: str = ""
    fingerprint: bytes = b""
    error: str = ""


def facts_of(data: bytes) -> Facts:
    """The facts of an encoded picture; what is no picture is an ordinary result with its reason."""
    try:
        decoded = imaging.decode_file(data)
        _check_alone(decoded, data)
    except InputError as error:
        other = other_kind(data)
        return Facts(error=f"This is {other}. Allowed are {', '.join(FORMATS)}." if other else str(error))
    height, width = decoded.pixels.shape[:2]
    return Facts(
        format=decoded.format,
        mode=decoded.mode,
        width=width,
        height=height,
        orientation=decoded.orientation,
        camera=decoded.camera,
        captured_at=decoded.captured_at,
        **asdict(imaging.photometry(decoded.pixels)),
        phash=phash(decoded.pixels),
        fingerprint=fingerprint(decoded.pixels),
    )


def phash(pixels_HWC: Pixels) -> str:
    """The 64-bit perceptual hash: which of the 8 × 8 lowest DCT frequencies at 32 × 32 are above their median.

    Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1.
    """
    grey_HW = imaging.shrink(cast("Pixels", cv2.cvtColor(pixels_HWC, cv2.COLOR_RGB2GRAY)), height=32, width=32)
    low_88 = cv2.dct(grey_HW.astype(np.float32))[:8, :8]
    return np.packbits(low_88 > np.median(low_88)).tobytes().hex()


def _check_alone(decoded: Decoded, data: bytes) -> None:
    """The file is one picture of a usable shape, and nothing else. Raises InputError."""
    height, width = decoded.pixels.shape[:2]
    if decoded.frames > 1 and decoded.format != "MPO":  # an MPO's first picture is the photograph, the others previews
        raise InputError(f"The file holds {decoded.frames} pictures, and one label cannot speak of all. Save one.")
    if rest := appended(data, decoded.format):
        raise InputError(f"{rest}. Export the picture again, with nothing attached.")
    if max(height, width) > ASPECT_MAX * min(height, width):
        raise InputError(f"The picture is {width} × {height} pixels: a strip, no photograph. Crop it anew.")
