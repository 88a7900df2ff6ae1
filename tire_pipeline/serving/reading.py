"""One encoded picture made ready for a model. The same for a request and for a list of files.

Legend: C channels, H height, W width, K classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tire_pipeline import imaging
from tire_pipeline.bundle import Bundle, Floats
from tire_pipeline.errors import InputError
from tire_pipeline.input_gate import Retake
from tire_pipeline.serving.limits import Limits


@dataclass(frozen=True)
class Picture:
    """A decoded picture: the model's input, what monitoring wants to know of it (see `imaging`), and why it should be
    taken again, where the bundle's input gate says so.
    """

    x_CHW: Floats
    width: int
    height: int
    brightness: float
    sharpness: float
    retake: Retake | None = None


@dataclass(frozen=True)
class Reading:
    """What reading a file gave: a picture, or the reason why it is none."""

    sha256: str
    picture: Picture | None = None
    error: str | None = None


def read(data: bytes, bundle: Bundle, limits: Limits) -> Reading:
    """Decode and prepare one encoded picture. A file that is no picture is an ordinary result, not an exception."""
    spec, gate = bundle.preprocessing, bundle.input_gate
    sha256 = hashlib.sha256(data).hexdigest()
    if fault := size_fault(len(data), limits):
        return Reading(sha256, error=fault)
    try:
        pixels_HWC = imaging.decode(data, max_pixels=limits.max_pixels, max_scan_pixels=limits.max_scan_pixels)
        height, width = pixels_HWC.shape[:2]
        seen_HWC = imaging.resize_for(pixels_HWC, spec)
        picture = Picture(
            x_CHW=imaging.normalise(seen_HWC[None], spec)[0],
            width=width,
            height=height,
            brightness=imaging.brightness(pixels_HWC),
            sharpness=imaging.sharpness(pixels_HWC),
            retake=gate.refusal(seen_HWC, width=width, height=height) if gate else None,
        )
    except InputError as error:
        return Reading(sha256, error=str(error))
    return Reading(sha256, picture)


def size_fault(num_bytes: int, limits: Limits) -> str | None:
    """Why a file of this size is not looked at, or None."""
    if num_bytes <= limits.max_image_bytes:
        return None
    return f"The file is larger than {limits.max_image_bytes / 2**20:.0f} MiB. Save the picture smaller."


def decide(bundle: Bundle, picture: Picture, p_K: Floats) -> tuple[str, float, str]:
    """(label, its probability, decision), as the bundle's: a picture that should be taken again is for `review`."""
    label, probability, decision = bundle.decide(p_K)
    return label, probability, "review" if picture.retake else decision


def by_class(bundle: Bundle, p_K: Floats) -> dict[str, float]:
    """Each class with its probability."""
    return dict(zip(bundle.classes, map(float, p_K), strict=True))
