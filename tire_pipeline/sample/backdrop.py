"""What a tyre is photographed against, in linear BGR."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tire_pipeline.sample.rubber import cloud, float32, pixel_grid

if TYPE_CHECKING:
    from collections.abc import Callable

    from tire_pipeline.sample.rubber import Image


PAINTS_BGR = ((0.2, 0.22, 0.22), (0.17, 0.22, 0.15), (0.26, 0.2, 0.14), (0.3, 0.36, 0.38), (0.12, 0.13, 0.2))


def draw_backdrop(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """One of the places below, (H, W, 3)."""
    place = PLACES[int(rng.integers(len(PLACES)))]
    return float32(np.clip(place(rng, shape), 0.01, 1))


def concrete(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """A workshop floor: grey, blotched, speckled, a joint or two."""
    stains, grit = cloud(rng, shape, cells=4), cloud(rng, shape, cells=90, octaves=2)
    _, along = slanted_axes(rng, shape)
    joint = np.abs(along - np.float32(rng.uniform(-1, 1))) < 0.008
    tone = rng.uniform(0.16, 0.4) * (1 + 0.1 * stains + 0.07 * grit) * (1 - np.float32(0.45) * joint)
    return float32(tone[..., None] * float32(1 + rng.uniform(-0.06, 0.06, 3)))


def painted_wall(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """Blocks in courses, the lower part painted."""
    across, along = slanted_axes(rng, shape, most=0.08)
    height = rng.uniform(0.35, 0.55)
    course = np.floor(along / height)
    joint = (along / height % 1 < 0.05) | ((across / (2 * height) + course * 0.5) % 1 < 0.025)
    upper = rng.uniform(0.35, 0.6) * (1 + rng.uniform(-0.06, 0.06, 3))
    lower = np.asarray(PAINTS_BGR[int(rng.integers(len(PAINTS_BGR)))]) * rng.uniform(0.8, 1.3)
    colour = np.where((along > rng.uniform(-0.3, 0.8))[..., None], float32(lower), float32(upper))
    texture = 1 + np.float32(0.05) * cloud(rng, shape, cells=30) - np.float32(0.3) * joint
    return float32(colour * texture[..., None])


def conveyor(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """Steel rollers side by side."""
    _, along = slanted_axes(rng, shape)
    roller = along / rng.uniform(0.2, 0.35) % 1
    shine = np.exp(-(((roller - 0.4) / 0.18) ** 2)) * rng.uniform(0.25, 0.5) + 0.05
    gap = np.where(roller < 0.1, 0.3, 1.0)
    worn = 1 + 0.08 * cloud(rng, shape, cells=8)
    tone = float32(shine * gap * worn)
    return float32(tone[..., None] * float32(1 + rng.uniform(-0.05, 0.05, 3)))


def planks(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """A wooden bench or pallet."""
    _, along = slanted_axes(rng, shape)
    width = rng.uniform(0.3, 0.5)
    board = np.floor(along / width)
    tone = rng.uniform(0.25, 0.45) * (1 + 0.18 * np.sin(board * 12.9)) * (along / width % 1 > 0.04)
    grain = 1 + 0.12 * cloud(rng, (shape[0], 6), cells=60, octaves=1).mean(axis=1)[:, None]
    return float32(float32(tone * grain)[..., None] * float32([0.46, 0.7, 1.0]))


def slanted_axes(rng: np.random.Generator, shape: tuple[int, int], most: float = 0.5) -> tuple[Image, Image]:
    """Coordinates (across, along), about −1..1, turned by at most `most` radians."""
    turn = rng.uniform(-most, most)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x, y = pixel_grid(shape)
    return x * cos + y * sin, y * cos - x * sin


PLACES: tuple[Callable[[np.random.Generator, tuple[int, int]], Image], ...] = (
    concrete,
    painted_wall,
    conveyor,
    planks,
)
