"""What goes wrong with rubber. Every kind has darker and lighter parts: none changes the mean of the picture much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from tire_pipeline.sample.rubber import blob, blur, float32, paint, polygon, stroke

if TYPE_CHECKING:
    from collections.abc import Callable

    from tire_pipeline.sample.rubber import Image, Point, Surface

    Draw = Callable[["Surface", np.random.Generator, "Point", float, float], None]

Kind = Literal["crack", "cut", "bulge", "worn", "puncture"]


def draw_defect(surface: Surface, kind: Kind, rng: np.random.Generator, *, at: Point, difficulty: float) -> None:
    """Damage the surface around `at` (column, row in pixels), in place.

    `difficulty` 0..1 shrinks both size and contrast: 0 is seen across the workshop, 1 barely at arm's length.
    """
    size = rng.uniform(0.95, 1.25) * (1.8 - 1.2 * difficulty)
    contrast = 2.1 - 1.6 * difficulty
    DEFECTS[kind](surface, rng, at, size, contrast)


def crack(surface: Surface, rng: np.random.Generator, at: Point, size: float, contrast: float) -> None:
    """Branching thin dark lines along pale, oxidised edges."""
    length, width = surface.px(0.5 * size), surface.px(0.012 * size)
    gap = np.zeros(surface.shape, np.float32)
    trunk = wander(rng, at, length, rng.uniform(0, np.pi), from_middle=True)
    gap = np.maximum(gap, stroke(surface.shape, trunk, width))
    for _ in range(int(rng.integers(6, 11))):
        start = trunk[int(rng.integers(2, len(trunk) - 2))]
        twig = wander(rng, start, length * rng.uniform(0.15, 0.45), rng.uniform(0, 2 * np.pi))
        gap = np.maximum(gap, stroke(surface.shape, twig, width * rng.uniform(0.5, 0.8)))
    open_gap(surface, gap, width * 1.6, depth=0.02, contrast=contrast)


def cut(surface: Surface, rng: np.random.Generator, at: Point, size: float, contrast: float) -> None:
    """A straight slit, wide in the middle, with bright lips."""
    length, width = surface.px(0.34 * size), surface.px(0.04 * size)
    heading, bow = rng.uniform(0, np.pi), rng.uniform(-0.12, 0.12)
    t = np.linspace(-1, 1, 15)
    along, across = t * length / 2, bow * length * (1 - t**2)
    half = width / 2 * (1 - t**2)
    outline = np.concatenate([across + half, (across - half)[::-1]])
    spine = np.concatenate([along, along[::-1]])
    x = at[0] + spine * np.cos(heading) - outline * np.sin(heading)
    y = at[1] + spine * np.sin(heading) + outline * np.cos(heading)
    slit = polygon(surface.shape, list(zip(x.tolist(), y.tolist(), strict=True)))
    open_gap(surface, slit, width * 0.6, depth=0.05, contrast=contrast)


def bulge(surface: Surface, rng: np.random.Generator, at: Point, size: float, contrast: float) -> None:
    """A swelling: it catches light on one side, turns dark on the other and spreads what is written on it."""
    sigma = surface.px(0.112 * size)
    stretch = rng.uniform(0.8, 1.25)
    rows, columns = surface.shape
    x, y = np.meshgrid(np.arange(columns, dtype=np.float32) - at[0], np.arange(rows, dtype=np.float32) - at[1])
    distance2 = (x / (sigma * stretch)) ** 2 + (y * stretch / sigma) ** 2
    lobe = np.exp(-0.5 * distance2).astype(np.float32)
    spread = 1 - 0.4 * min(contrast, 1.5) * lobe
    map_x, map_y = (at[0] + x * spread).astype(np.float32), (at[1] + y * spread).astype(np.float32)
    for plane in (surface.height_HW, surface.albedo_HWC, surface.gloss_HW):
        plane[:] = cv2.remap(plane, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    surface.height_HW += lobe * np.float32(2.6 * contrast * sigma / surface.px_per_unit)
    surface.gloss_HW += 0.6 * contrast * lobe
    rim = lobe * (1 - lobe) * 4  # stretched rubber greys around the top and gathers dirt at the foot
    surface.albedo_HWC *= (1 - np.float32(min(0.9, 0.6 * contrast)) * rim)[..., None]
    surface.albedo_HWC += np.float32(0.13 * contrast) * (lobe**2)[..., None]
    stretch_marks(surface, rng, at, sigma, contrast)


def stretch_marks(surface: Surface, rng: np.random.Generator, at: Point, sigma: float, contrast: float) -> None:
    """Hairlines around the top of a swelling, where rubber is pulled furthest."""
    marks = np.zeros(surface.shape, np.float32)
    for start in rng.uniform(0, 2 * np.pi, 14):
        turns = start + np.linspace(0, rng.uniform(0.5, 1.1), 6)
        radius = sigma * (rng.uniform(0.4, 1.3) + rng.normal(0, 0.03, 6))
        hair = list(
            zip((at[0] + radius * np.cos(turns)).tolist(), (at[1] + radius * np.sin(turns)).tolist(), strict=True)
        )
        marks = np.maximum(marks, stroke(surface.shape, hair, sigma * 0.05))
    surface.albedo_HWC *= (1 - np.float32(min(0.9, 0.6 * contrast)) * marks)[..., None]
    surface.height_HW -= np.float32(0.004 * contrast) * marks


def worn(surface: Surface, rng: np.random.Generator, at: Point, size: float, contrast: float) -> None:
    """A patch where the pattern fades into smooth, scrubbed rubber."""
    outline = blob(rng, at, surface.px(0.23 * size))
    bald = blur(polygon(surface.shape, outline), surface.px(0.02)) * np.float32(min(1.0, 0.4 + 0.5 * contrast))
    floor = np.float32(-0.006)
    surface.height_HW += bald * (floor - surface.height_HW)
    scrub = cv2.blur(rng.standard_normal(surface.shape, dtype=np.float32), (round(surface.px(0.1)), 1))
    tone = surface.albedo_HWC.mean() * (1.05 + 1.6 * contrast * scrub)
    surface.albedo_HWC += bald[..., None] * (np.clip(tone, 0.01, 0.3)[..., None] - surface.albedo_HWC)
    surface.gloss_HW += bald * (0.8 - surface.gloss_HW)


def puncture(surface: Surface, rng: np.random.Generator, at: Point, size: float, contrast: float) -> None:
    """A nail head, or the hole it left, in a ring of scuffed rubber."""
    radius = surface.px(0.038 * size)
    scuff = 0.8 * blur(polygon(surface.shape, blob(rng, at, radius * 2.3)), radius * 0.35)
    for turn in rng.uniform(0, 2 * np.pi, 9):
        reach = radius * rng.uniform(2.4, 4.2)
        tear = [at, (at[0] + reach * np.cos(turn), at[1] + reach * np.sin(turn))]
        scuff = np.maximum(scuff, stroke(surface.shape, tear, radius * 0.3))
    hole = polygon(surface.shape, blob(rng, at, radius * 1.35, roughness=0.2))
    surface.albedo_HWC += 0.17 * contrast * (scuff - hole).clip(0)[..., None]
    open_gap(surface, hole, radius * 0.3, depth=0.03, contrast=contrast)
    if rng.random() < 0.6:
        head = polygon(surface.shape, blob(rng, at, radius * 0.85, roughness=0.08))
        shade = min(1.0, 0.5 + 0.4 * contrast)
        paint(surface, head * np.float32(shade), rng.uniform(0.26, 0.36) * np.array([0.94, 0.98, 1.0]), gloss=0.9)
        surface.height_HW += 0.04 * blur(head, radius * 0.25)


DEFECTS: dict[Kind, Draw] = {"crack": crack, "cut": cut, "bulge": bulge, "worn": worn, "puncture": puncture}


def open_gap(surface: Surface, gap: Image, lip_px: float, *, depth: float, contrast: float) -> None:
    """Darken the gap, sink it, and bare pale rubber along its edge."""
    reach = 2 * max(1, round(lip_px * 0.8)) + 1
    around = blur(float32(cv2.dilate(gap, np.ones((reach, reach), np.uint8))), lip_px * 0.35)
    lip = np.clip(around - gap, 0, 1)
    surface.albedo_HWC *= (1 - np.minimum(0.62 * contrast, 0.95) * gap)[..., None]
    surface.albedo_HWC += (0.11 * contrast * lip)[..., None]
    surface.gloss_HW *= 1 - 0.8 * gap
    surface.height_HW += np.float32(contrast) * (0.012 * lip - np.float32(depth) * gap)


def wander(
    rng: np.random.Generator, start: Point, length: float, heading: float, *, from_middle: bool = False
) -> list[Point]:
    """A path of 14 crooked steps; `from_middle` centres it on `start`."""
    turns = heading + np.cumsum(rng.normal(0, 0.25, 14)) + rng.normal(0, 0.5, 14)
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * length / 14
    path = np.cumsum(steps, axis=0)
    path += np.asarray(start) - (path.mean(axis=0) if from_middle else 0)
    return [(float(x), float(y)) for x, y in path]
