"""The running surface of a tyre: four families of pattern, cut into rubber by lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from tire_pipeline.sample.rubber import SUBPIXEL_BITS, Surface, blur, coverage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tire_pipeline.sample.rubber import Point

HALF_WIDTH = 0.6  # tread and shoulders, in tread widths from the middle
LENGTH = 2.6  # of circumference, in tread widths: more than any camera sees at once
GROOVE_DEPTH = 0.05


class Cutter:
    """Collects lines in tread units (x across −0.6..0.6, y along) and cuts them into one mask each time round."""

    def __init__(self, px_per_unit: float, pitch: float) -> None:
        self.px_per_unit = px_per_unit
        self.pitch = pitch  # the pattern repeats every `pitch` units of circumference
        self.mask = np.zeros((round(2 * HALF_WIDTH * px_per_unit), round(LENGTH * px_per_unit)), np.uint8)

    def along(self, x: float, width: float, wave: float = 0.0) -> None:
        """A groove around the tyre at `x`, straight or in zigzag."""
        steps = np.arange(0, LENGTH + self.pitch, self.pitch / 2)
        zigzag = wave * (np.arange(len(steps)) % 2 * 2 - 1)
        self._line([(x + dx, y) for dx, y in zip(zigzag, steps, strict=True)], width)

    def across(self, points: list[Point], width: float) -> None:
        """A groove or sipe through `points` (x, y), repeated at every pitch."""
        for start in np.arange(-2 * self.pitch, LENGTH + 2 * self.pitch, self.pitch):
            self._line([(x, y + start) for x, y in points], width)

    def _line(self, points: list[Point], width: float) -> None:
        xy = np.asarray([(y, x + HALF_WIDTH) for x, y in points]) * self.px_per_unit
        fixed = np.round(xy * 2**SUBPIXEL_BITS).astype(np.int32)
        thick = max(1, round(width * self.px_per_unit))
        cv2.polylines(self.mask, [fixed], False, 255, thick, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_tread(rng: np.random.Generator, *, px_per_unit: float) -> Surface:
    """A tread with grooves, sipes and wear bars; rows run from shoulder to shoulder."""
    family = FAMILIES[int(rng.integers(len(FAMILIES)))]
    grooves, sipes = (Cutter(px_per_unit, rng.uniform(0.15, 0.24)) for _ in range(2))
    sipes.pitch = grooves.pitch
    family(rng, grooves, sipes)
    surface = Surface.plain(rng, (grooves.mask.shape[0], grooves.mask.shape[1]), px_per_unit)
    cut = coverage(grooves.mask)
    fine = coverage(sipes.mask)
    depth = np.maximum(GROOVE_DEPTH * cut, 0.4 * GROOVE_DEPTH * fine)
    raise_wear_bars(depth, rng)
    surface.height_HW -= blur(depth, 0.9)
    surface.albedo_HWC *= (1.25 - 0.65 * np.maximum(cut, 0.6 * fine))[..., None]  # the tops are rubbed grey
    return surface


def raise_wear_bars(depth: np.ndarray, rng: np.random.Generator) -> None:
    """Low bridges across the grooves, a few to a turn."""
    rows, columns = depth.shape
    width = max(1, round(rows * 0.03))
    for at in np.arange(rng.uniform(0.1, 0.4), 1, 0.45):
        column = round(at * columns)
        depth[:, column : column + width] *= 0.55


def rib(rng: np.random.Generator, grooves: Cutter, sipes: Cutter) -> None:
    """Touring: three or four straight grooves, ribs slit by short sipes."""
    count = int(rng.integers(3, 5))
    lanes = np.linspace(-0.3, 0.3, count)
    for x in lanes:
        grooves.along(float(x), rng.uniform(0.045, 0.065))
    slant = rng.uniform(-0.08, 0.08)
    for left in (*(lanes[:-1] + 0.04),):
        sipes.across([(left, 0.0), (left + 0.11, slant)], 0.012)
    shoulders(grooves, rng.uniform(0.02, 0.035), rng.uniform(-0.04, 0.06))


def block(rng: np.random.Generator, grooves: Cutter, sipes: Cutter) -> None:
    """All terrain: zigzag grooves and staggered cross grooves leave blocks."""
    for x in (-0.28, 0.0, 0.28):
        grooves.along(x, rng.uniform(0.04, 0.055), wave=rng.uniform(0.01, 0.03))
    for number, left in enumerate((-0.28, 0.0)):
        shift = number * grooves.pitch / 2
        grooves.across([(left, shift), (left + 0.28, shift + rng.uniform(-0.03, 0.06))], rng.uniform(0.03, 0.045))
        sipes.across([(left + 0.05, shift + 0.08), (left + 0.14, shift + 0.1), (left + 0.23, shift + 0.08)], 0.012)
    shoulders(grooves, rng.uniform(0.035, 0.05), rng.uniform(-0.03, 0.03))


def directional(rng: np.random.Generator, grooves: Cutter, sipes: Cutter) -> None:
    """Rain: V-shaped grooves swept back from the middle."""
    sweep = rng.uniform(0.25, 0.45)
    bend = [(0.03, 0.0), (0.18, sweep * 0.6), (0.36, sweep * 0.9), (0.6, sweep)]
    width = rng.uniform(0.035, 0.05)
    for side in (-1, 1):
        grooves.across([(side * x, y) for x, y in bend], width)
        sipes.across([(side * x * 0.9, y + grooves.pitch / 2) for x, y in bend[1:]], 0.012)
        grooves.along(side * rng.uniform(0.1, 0.14), width)


def winter(rng: np.random.Generator, grooves: Cutter, sipes: Cutter) -> None:
    """Snow: blocks full of wavy sipes."""
    for x in (-0.3, -0.1, 0.1, 0.3):
        grooves.along(x, rng.uniform(0.035, 0.045))
    slant = rng.uniform(0.02, 0.07)
    for x in (-0.3, -0.1, 0.1):
        grooves.across([(x, 0.0), (x + 0.2, slant)], 0.035)
        for step in (0.3, 0.55, 0.8):
            y = step * grooves.pitch
            wave = [(x + 0.03 + 0.028 * i, y + slant * i / 6 + 0.012 * (i % 2)) for i in range(6)]
            sipes.across(wave, 0.01)
    shoulders(grooves, 0.035, slant)


def shoulders(grooves: Cutter, width: float, slant: float) -> None:
    """Grooves that run out over both edges."""
    for side in (-1, 1):
        grooves.across([(side * 0.34, 0.0), (side * 0.6, slant)], width)


FAMILIES: tuple[Callable[[np.random.Generator, Cutter, Cutter], None], ...] = (rib, block, directional, winter)
