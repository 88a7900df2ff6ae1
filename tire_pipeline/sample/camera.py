"""Four cameras, each with its own format, colour, grain, lens and compression; from linear light to JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tire_pipeline.sample.rubber import blur, float32

if TYPE_CHECKING:
    from tire_pipeline.sample.rubber import Image


@dataclass(frozen=True)
class Camera:
    """What one camera does to every picture it takes."""

    name: str
    width: float  # of the picture, as a multiple of the sample's `size`
    height: float
    cast_bgr: tuple[float, float, float]
    noise: float  # standard deviation at mid grey, 0..1
    vignette: float  # light lost in the corners, 0..1
    jpeg_quality: int

    def shape(self, size: int) -> tuple[int, int]:
        """(rows, columns) in pixels."""
        return round(self.height * size), round(self.width * size)


CAMERAS = (
    Camera("gate-a", 1.0, 1.0, (1.0, 1.0, 1.0), 0.010, 0.15, 90),
    Camera("gate-b", 1.15, 0.9, (1.1, 1.0, 0.93), 0.016, 0.30, 84),
    Camera("bench", 1.0, 0.9, (0.9, 1.0, 1.08), 0.008, 0.10, 92),
    Camera("phone", 0.9, 1.15, (0.97, 1.02, 1.0), 0.020, 0.20, 80),
)


def expose(camera: Camera, scene_HWC: Image, rng: np.random.Generator) -> bytes:
    """The JPEG file that `camera` makes of a linear BGR scene."""
    gain = rng.uniform(0.9, 1.15) * np.asarray(camera.cast_bgr, np.float32)
    seen = scene_HWC * gain.astype(np.float32)
    seen *= falloff(scene_HWC.shape[:2], camera.vignette)[..., None]
    seen = shake(np.clip(seen, 0, 1.2, out=seen), rng)
    grain = rng.standard_normal(seen.shape[:2], dtype=np.float32) * np.float32(camera.noise)
    grey = np.sqrt(seen, out=seen)  # gamma 2: the square root is fast, and near sRGB
    grey += grain[..., None]
    picture = cv2.convertScaleAbs(np.clip(grey, 0, 1, out=grey), alpha=255)
    quality = camera.jpeg_quality + int(rng.integers(-3, 4))
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def falloff(shape: tuple[int, ...], strength: float) -> Image:
    """1 in the middle, `1 - strength` in the corners."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) ** 2 for side in shape)
    return float32(1 - np.float32(strength / 2) * (y[:, None] + x[None, :]))


def shake(seen_HWC: Image, rng: np.random.Generator) -> Image:
    """One shot in six is out of focus, one in six moved; by fractions of the picture, so that `size` is free."""
    side = min(seen_HWC.shape[:2])
    fault = rng.random()
    if fault < 1 / 6:
        return blur(seen_HWC, side * rng.uniform(0.0015, 0.004))
    if fault < 1 / 3:
        length = max(2, round(side * rng.uniform(0.006, 0.014)))
        return float32(cv2.filter2D(seen_HWC, -1, streak(length, rng.uniform(0, np.pi))))
    return seen_HWC


def streak(length: int, heading: float) -> Image:
    """A motion-blur kernel: a line of `length` pixels that sums to 1."""
    kernel = np.zeros((length + 2, length + 2), np.uint8)
    middle = (length + 1) / 2
    dx, dy = np.cos(heading) * length / 2, np.sin(heading) * length / 2
    ends = [(round((middle + sign * dx) * 16), round((middle + sign * dy) * 16)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 255, 1, cv2.LINE_AA, 4)
    return float32(kernel / kernel.sum())
