"""A tyre's surface laid flat, and the noise and strokes that everything on it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.float32]
    Point = tuple[float, float]

STEEPEST = 1.6  # relief is cut off here: a wall at 90° would have no picture elements to be seen on
SUBPIXEL_BITS = 4


@dataclass
class Surface:
    """Rubber laid flat and drawn on in place: columns run along the circumference, rows across it.

    Lengths are in units of the tyre (sidewall: outer radius; tread: tread width).
    """

    height_HW: Image  # relief in units, outwards positive
    albedo_HWC: Image  # linear BGR reflectance, 0..1
    gloss_HW: Image  # strength of the specular highlight, 0..1
    px_per_unit: float

    @classmethod
    def plain(cls, rng: np.random.Generator, shape: tuple[int, int], px_per_unit: float) -> Surface:
        """New rubber: nearly black, slightly tinted, never quite even."""
        tone = rng.uniform(0.04, 0.075) * (1 + 0.1 * cloud(rng, shape, cells=6))
        albedo = tone[..., None] * float32(1 + rng.uniform(-0.06, 0.06, 3))
        height = 0.0004 * cloud(rng, shape, cells=max(shape) // 5, octaves=1)
        gloss = np.full(shape, rng.uniform(0.25, 0.7), np.float32)
        return cls(float32(height), float32(albedo), gloss, px_per_unit)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) in pixels."""
        return self.height_HW.shape[0], self.height_HW.shape[1]

    def px(self, length: float) -> float:
        """A length in units as pixels."""
        return length * self.px_per_unit

    def material(self) -> tuple[Image, Image]:
        """(albedo_HW3, detail_HW3): what the camera needs to know. Detail is slope along, slope across, gloss."""
        relief = self.height_HW * np.float32(self.px_per_unit)
        along = np.clip(cv2.Sobel(relief, cv2.CV_32F, 1, 0, scale=0.125), -STEEPEST, STEEPEST)
        across = np.clip(cv2.Sobel(relief, cv2.CV_32F, 0, 1, scale=0.125), -STEEPEST, STEEPEST)
        sunk = cv2.GaussianBlur(relief, (0, 0), 5) - relief
        open_sky = 1 / (1 + 0.22 * np.maximum(sunk, 0))
        detail = np.dstack([along, across, self.gloss_HW * open_sky])
        return float32(self.albedo_HWC * open_sky[..., None]), float32(detail)


def float32(values: object) -> Image:
    """The array in single precision, not copied if it is so already: OpenCV is typed loosely, and NumPy widens."""
    return np.asarray(values, np.float32)


@cache
def pixel_grid(shape: tuple[int, int]) -> tuple[Image, Image]:
    """(x_HW, y_HW) of every pixel, about −1..1 along the shorter side, 0 in the middle. Shared: do not write to it."""
    half = min(shape) / 2
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    grid = ((x - np.float32(shape[1] / 2 - 0.5)) / half, (y - np.float32(shape[0] / 2 - 0.5)) / half)
    for axis in grid:
        axis.flags.writeable = False
    return grid


def cloud(rng: np.random.Generator, shape: tuple[int, int], *, cells: int, octaves: int = 3) -> Image:
    """Smooth noise of about zero mean and unit spread; `cells` blobs along the longer side, then halved in size."""
    total = np.zeros(shape, np.float32)
    longest = max(shape)
    for octave in range(octaves):
        count = cells * 2**octave
        grid = tuple(max(2, min(side, round(count * side / longest) + 1)) for side in shape)
        noise = rng.standard_normal(grid, dtype=np.float32)
        total += cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC) * np.float32(0.55**octave)
    return total


def stroke(shape: tuple[int, int], points: Sequence[Point], width_px: float, *, closed: bool = False) -> Image:
    """A mask (0..1) of the line through `points` (x, y in pixels), its edge smooth."""
    mask = np.zeros(shape, np.uint8)
    fixed = np.round(np.asarray(points, np.float64) * 2**SUBPIXEL_BITS).astype(np.int32)
    thickness = max(1, round(width_px))
    cv2.polylines(mask, [fixed], closed, 255, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    return coverage(mask) * np.float32(min(width_px, 1))


def polygon(shape: tuple[int, int], points: Sequence[Point]) -> Image:
    """A filled mask (0..1) of the polygon through `points` (x, y in pixels)."""
    mask = np.zeros(shape, np.uint8)
    fixed = np.round(np.asarray(points, np.float64) * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return coverage(mask)


def coverage(ink_HW: NDArray[np.uint8]) -> Image:
    """What OpenCV drew in 0..255 as a mask 0..1."""
    return np.multiply(ink_HW, np.float32(1 / 255), dtype=np.float32)


def blur(image: Image, sigma_px: float) -> Image:
    """Gaussian blur; a sigma under a fifth of a pixel changes nothing."""
    return image if sigma_px < 0.2 else float32(cv2.GaussianBlur(image, (0, 0), sigma_px))


def blob(rng: np.random.Generator, centre: Point, radius_px: float, *, roughness: float = 0.25) -> list[Point]:
    """The outline of a lumpy disc around `centre`, 40 points."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = np.ones_like(angle)
    for lobes in range(2, 7):
        radius += roughness / lobes * rng.standard_normal() * np.cos(lobes * angle + rng.uniform(0, 6.3))
    stretch = rng.uniform(0.75, 1.33)
    x = centre[0] + radius_px * stretch * radius * np.cos(angle)
    y = centre[1] + radius_px / stretch * radius * np.sin(angle)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def paint(surface: Surface, mask_HW: Image, colour_bgr: Sequence[float] | NDArray[np.float64], *, gloss: float) -> None:
    """Cover the surface with an opaque colour (linear BGR) where the mask is 1."""
    x, y, width, height = cv2.boundingRect((mask_HW > 0).view(np.uint8))  # most marks are small
    part = np.s_[y : y + height, x : x + width]
    mask, colour = mask_HW[part], np.asarray(colour_bgr, np.float32)
    surface.albedo_HWC[part] += mask[..., None] * (colour - surface.albedo_HWC[part])
    surface.gloss_HW[part] += mask * (np.float32(gloss) - surface.gloss_HW[part])
