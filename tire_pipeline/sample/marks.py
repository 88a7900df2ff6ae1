"""Harmless marks. Good tyres carry as many as defective ones, so that a dark or bright blob is no clue by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from tire_pipeline.sample.rubber import blob, blur, cloud, coverage, paint, polygon, stroke

if TYPE_CHECKING:
    from collections.abc import Callable

    from tire_pipeline.sample.rubber import Point, Surface

MARKS_PER_TYRE = 2.2
CHALK_BGR = ((0.5, 0.52, 0.52), (0.12, 0.45, 0.55), (0.55, 0.35, 0.2))
MUD_BGR = (0.06, 0.1, 0.15)
STONE_BGR = (0.2, 0.22, 0.24)


def draw_marks(surface: Surface, rng: np.random.Generator, *, around: Point) -> None:
    """Dust, mud, water, chalk and stones on the surface, most of them near `around` (column, row), in place."""
    for _ in range(int(rng.poisson(MARKS_PER_TYRE))):
        mark = MARKS[int(rng.integers(len(MARKS)))]
        column = around[0] + rng.normal(0, surface.px(0.35))
        mark(surface, rng, (column, rng.uniform(0.1, 0.9) * surface.shape[0]))


def dust(surface: Surface, rng: np.random.Generator, at: Point) -> None:
    """A dull pale film in the hollows, everywhere a little."""
    film = np.clip(0.5 + 0.5 * cloud(rng, surface.shape, cells=9, octaves=4), 0, 1) * rng.uniform(0.1, 0.35)
    paint(surface, film, (0.13, 0.16, 0.18), gloss=0.1)


def mud(surface: Surface, rng: np.random.Generator, at: Point) -> None:
    """A splash with its droplets, brown and lumpy."""
    radius = surface.px(rng.uniform(0.04, 0.09))
    splash = polygon(surface.shape, blob(rng, at, radius, roughness=0.5))
    for _ in range(int(rng.integers(4, 12))):
        drop = (at[0] + rng.normal(0, 2.2 * radius), at[1] + rng.normal(0, 2.2 * radius))
        splash = np.maximum(splash, polygon(surface.shape, blob(rng, drop, radius * rng.uniform(0.08, 0.25))))
    splash = blur(splash, 0.8)
    paint(surface, splash * np.float32(0.9), np.asarray(MUD_BGR) * rng.uniform(0.7, 1.7), gloss=0.05)
    surface.height_HW += 0.006 * splash * (1 + 0.6 * cloud(rng, surface.shape, cells=120, octaves=1))


def water(surface: Surface, rng: np.random.Generator, at: Point) -> None:
    """A wet run: darker and much glossier."""
    end = (at[0] + rng.normal(0, surface.px(0.2)), at[1] + rng.normal(0, surface.px(0.2)))
    wet = blur(stroke(surface.shape, [at, end], surface.px(rng.uniform(0.03, 0.08))), surface.px(0.008))
    surface.albedo_HWC *= (1 - 0.45 * wet)[..., None]
    surface.gloss_HW += 0.5 * wet


def chalk(surface: Surface, rng: np.random.Generator, at: Point) -> None:
    """What a fitter writes on a tyre: a tick, a ring or a number."""
    reach, ink = surface.px(rng.uniform(0.05, 0.1)), np.zeros(surface.shape, np.uint8)
    x, y, thick = round(at[0]), round(at[1]), max(1, round(surface.px(0.016)))
    match int(rng.integers(3)):
        case 0:
            cv2.ellipse(ink, (x, y), (round(reach), round(reach * 0.8)), 20, 0, 330, 255, thick, cv2.LINE_AA)
        case 1:
            text = str(rng.integers(2, 99))
            cv2.putText(ink, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, reach / 20, 255, thick, cv2.LINE_AA)
        case _:
            tick = np.asarray([(-0.6, 0), (-0.1, 0.7), (0.9, -0.9)]) * reach + (x, y)
            cv2.polylines(ink, [tick.astype(np.int32)], False, 255, thick, cv2.LINE_AA)
    grain = np.clip(0.75 + 0.3 * cloud(rng, surface.shape, cells=200, octaves=1), 0, 1)
    colour = CHALK_BGR[int(rng.integers(len(CHALK_BGR)))]
    paint(surface, blur(coverage(ink), 0.6) * grain, colour, gloss=0.05)


def stones(surface: Surface, rng: np.random.Generator, at: Point) -> None:
    """Grit that sticks: small, pale, round-edged."""
    for _ in range(int(rng.integers(2, 7))):
        spot = (at[0] + rng.normal(0, surface.px(0.2)), at[1] + rng.normal(0, surface.px(0.15)))
        stone = polygon(surface.shape, blob(rng, spot, surface.px(rng.uniform(0.008, 0.018))))
        paint(surface, stone, np.asarray(STONE_BGR) * rng.uniform(0.6, 1.4), gloss=0.2)
        surface.height_HW += 0.012 * blur(stone, 0.8)


MARKS: tuple[Callable[[Surface, np.random.Generator, Point], None], ...] = (dust, mud, water, chalk, stones)
