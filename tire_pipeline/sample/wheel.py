"""The wheel that fills the hole: alloy spokes or a steel disc, drawn flat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tire_pipeline.sample.rubber import Surface, blur, float32, paint, polygon

if TYPE_CHECKING:
    from tire_pipeline.sample.rubber import Image

FINISHES = (0.45, 0.6, 0.3, 0.05)  # silver, bright, gunmetal, black


def draw_wheel(rng: np.random.Generator, *, px: int) -> Surface:
    """A square picture of the wheel seen from the front, `px` wide, the rim's edge touching its sides."""
    surface = Surface.plain(rng, (px, px), px / 2)
    metal = float(rng.choice(FINISHES)) * rng.uniform(0.85, 1.1)
    surface.albedo_HWC[:] = 0.02  # the dark behind the spokes
    surface.gloss_HW[:] = 0.1
    disc(surface, 0.62, (0.1, 0.1, 0.11), gloss=0.3)  # brake disc
    face = steel_face(rng, px) if rng.random() < 0.3 else alloy_face(rng, px)
    tint = metal * (1 + rng.uniform(-0.04, 0.04, 3))
    paint(surface, face, tint, gloss=0.9)
    surface.height_HW += 0.12 * blur(face, px * 0.012)
    hub(surface, rng, metal)
    return surface


def disc(surface: Surface, radius: float, colour: tuple[float, ...], *, gloss: float, height: float = 0.0) -> None:
    """Paint a round plate in the middle; `radius` as a fraction of the wheel's."""
    mask = ring_mask(surface.shape[0], 0, radius)
    paint(surface, mask, colour, gloss=gloss)
    surface.height_HW += height * blur(mask, surface.shape[0] * 0.006)


def ring_mask(px: int, inner: float, outer: float) -> Image:
    """1 between two radii (fractions of the wheel's), with an edge one pixel soft."""
    axis = np.linspace(-1, 1, px, dtype=np.float32)
    radius = np.hypot(axis[:, None], axis[None, :]) * (px / 2)
    return float32(np.clip(outer * px / 2 - radius, 0, 1) * np.clip(radius - inner * px / 2, 0, 1))


def alloy_face(rng: np.random.Generator, px: int) -> Image:
    """Rim lip, spokes (single or in pairs) and the plate they meet in."""
    spokes = int(rng.integers(5, 8))
    twin = rng.random() < 0.4
    wide, narrow = rng.uniform(0.09, 0.15), rng.uniform(0.06, 0.1)
    face = np.maximum(ring_mask(px, 0.88, 1.02), ring_mask(px, 0, 0.26))
    for number in range(spokes):
        turn = 2 * np.pi * number / spokes
        for lean in (-0.16, 0.16) if twin else (0.0,):
            scale = 0.6 if twin else 1.0
            face = np.maximum(face, spoke(px, turn, lean, wide * scale, narrow * scale))
    return face


def spoke(px: int, turn: float, lean: float, wide: float, narrow: float) -> Image:
    """One spoke from the plate to the lip, as a mask."""
    corners = [(0.1, -wide), (0.92, lean * 1.6 - narrow), (0.92, lean * 1.6 + narrow), (0.1, wide)]
    cos, sin = np.cos(turn), np.sin(turn)
    points = [((r * cos - t * sin + 1) * px / 2, (r * sin + t * cos + 1) * px / 2) for r, t in corners]
    return polygon((px, px), points)


def steel_face(rng: np.random.Generator, px: int) -> Image:
    """A pressed plate with a ring of round or oval holes."""
    face = ring_mask(px, 0, 1.02) - 0.35 * ring_mask(px, 0.8, 0.86)
    holes, angle = int(rng.integers(8, 14)), np.linspace(0, 2 * np.pi, 24)
    across, along = 0.075, rng.uniform(0.06, 0.11)
    for number in range(holes):
        turn = 2 * np.pi * number / holes
        r, t = 0.62 + across * np.cos(angle), along * np.sin(angle)
        x, y = r * np.cos(turn) - t * np.sin(turn), r * np.sin(turn) + t * np.cos(turn)
        points = list(zip(((x + 1) * px / 2).tolist(), ((y + 1) * px / 2).tolist(), strict=True))
        face = face - polygon((px, px), points)
    return float32(np.clip(face, 0, 1))


def hub(surface: Surface, rng: np.random.Generator, metal: float) -> None:
    """The nuts and the cap."""
    px, nuts = surface.shape[0], int(rng.choice([4, 5]))
    for number in range(nuts):
        turn = 2 * np.pi * (number + 0.5) / nuts
        corners = np.exp(1j * np.arange(6) * np.pi / 3) * 0.04 + 0.18 * np.exp(1j * turn) + (1 + 1j)
        nut = polygon((px, px), [(corner.real * px / 2, corner.imag * px / 2) for corner in corners.tolist()])
        paint(surface, nut, (0.05, 0.05, 0.05), gloss=0.8)
    cap = metal * rng.uniform(0.15, 1.0)
    disc(surface, 0.11, (cap, cap, cap), gloss=0.8, height=0.04)
