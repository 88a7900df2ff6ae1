"""One tyre seen by one camera: its flat surface is bent round, lit, and set before a backdrop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from tire_pipeline.sample.backdrop import draw_backdrop, slanted_axes
from tire_pipeline.sample.rubber import blur, cloud, float32, polygon
from tire_pipeline.sample.tread import HALF_WIDTH, LENGTH

if TYPE_CHECKING:
    from tire_pipeline.sample.plan import View
    from tire_pipeline.sample.pose import Light, Pose
    from tire_pipeline.sample.rubber import Image, Surface

TREAD_RADIUS = 1.75  # of the tyre, in tread widths
TYRE_DEPTH = 0.62  # of the tyre behind its sidewall, in outer radii


class Layer(NamedTuple):
    """What every pixel shows of one part: reflectance, the way it faces, its gloss and how much of it is seen."""

    albedo_HWC: Image
    normal_x_HW: Image
    normal_y_HW: Image
    gloss_HW: Image
    cover_HW: Image


@dataclass(frozen=True)
class Tyre:
    """A physical tyre, ready to be photographed. The defect, if there is one, is at `spot`."""

    view: View
    rubber: tuple[Image, Image]
    wheel: tuple[Image, Image] | None
    rim_radius: float
    spot: tuple[float, float]  # in units of the tyre's plane

    @classmethod
    def of(
        cls, view: View, surface: Surface, spot: tuple[float, float], wheel: Surface | None, rim_radius: float
    ) -> Tyre:
        """Freeze what was drawn."""
        return cls(view, surface.material(), wheel.material() if wheel else None, rim_radius, spot)


def photograph(tyre: Tyre, pose: Pose, light: Light, rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """The scene in linear BGR, (H, W, 3), before the camera."""
    picture = draw_backdrop(rng, shape) * np.float32(light.ambient + 0.7 * light.intensity)
    x, y = pose.unproject(shape)
    soft_px = pose.scale * min(shape) / 2
    if tyre.view == "tread":
        layers = [tread_layer(tyre, x, y, soft_px)]
        picture *= (1 - 0.6 * blur(layers[0].cover_HW, soft_px * 0.06))[..., None]
    else:
        draw_depth(picture, pose, light)
        layers = [sidewall_layer(tyre, x, y, soft_px), wheel_layer(tyre, x, y, soft_px)]
    for layer in layers:
        shaded = shade(layer, pose, light)
        picture += layer.cover_HW[..., None] * (shaded - picture)
    return cast_shade(picture, light, rng)


def sidewall_layer(tyre: Tyre, x: Image, y: Image, soft_px: float) -> Layer:
    """The flat sidewall wound into a ring and swollen like a torus."""
    radius, angle = cv2.cartToPolar(x, y)
    rows, columns = tyre.rubber[0].shape[:2]
    depth = (1 - radius) / np.float32(1 - tyre.rim_radius)
    albedo, detail = sample(tyre.rubber, angle * np.float32(columns / (2 * np.pi)), depth * (rows - 1))
    along, across, gloss = cv2.split(detail)
    outwards = across + np.float32(0.55) - np.float32(1.1) * np.clip(depth, 0, 1)
    outwards += 1.2 * np.clip(0.12 - depth, 0, 1) / np.float32(0.12)
    cos, sin = x / np.maximum(radius, 1e-3), y / np.maximum(radius, 1e-3)
    cover = np.clip((1 - radius) * np.float32(soft_px) + 0.5, 0, 1)
    return Layer(albedo, outwards * cos + along * sin, outwards * sin - along * cos, float32(gloss), cover)


def wheel_layer(tyre: Tyre, x: Image, y: Image, soft_px: float) -> Layer:
    """The wheel in the hole, darkest under the tyre's bead."""
    if tyre.wheel is None:
        raise TypeError("A sidewall is photographed with a wheel in it; none was drawn.")
    px = tyre.wheel[0].shape[0]
    to_px = np.float32(px / (2 * tyre.rim_radius))
    albedo, detail = sample(tyre.wheel, (x + tyre.rim_radius) * to_px, (y + tyre.rim_radius) * to_px)
    right, down, gloss = cv2.split(detail)
    inside = np.float32(tyre.rim_radius) - np.hypot(x, y)
    shadow = np.clip(0.25 + inside * 14, 0, 1)
    cover = np.clip(inside * np.float32(soft_px) + 0.5, 0, 1)
    return Layer(albedo * shadow[..., None], float32(-right), float32(-down), gloss * shadow, cover)


def tread_layer(tyre: Tyre, x: Image, y: Image, soft_px: float) -> Layer:
    """The flat tread bent over a cylinder that lies across the picture."""
    rows = tyre.rubber[0].shape[0]
    per_unit = np.float32(rows / (2 * HALF_WIDTH))
    sine = np.clip(y / np.float32(TREAD_RADIUS), -0.98, 0.98)
    column = (TREAD_RADIUS * np.arcsin(sine) + np.float32(LENGTH / 2)) * per_unit
    albedo, detail = sample(tyre.rubber, column, (x + np.float32(HALF_WIDTH)) * per_unit)
    along, across, gloss = cv2.split(detail)
    over = np.maximum(np.abs(x) - np.float32(0.4), 0) * np.sign(x) * np.float32(9)
    cover = np.clip((np.float32(HALF_WIDTH) - np.abs(x)) * np.float32(soft_px) + 0.5, 0, 1)
    return Layer(albedo, float32(over - across), sine / np.sqrt(1 - sine**2) - along, float32(gloss), cover)


def sample(material: tuple[Image, Image], column: Image, row: Image) -> tuple[Image, Image]:
    """The material's two planes at fractional positions, (H, W, 3) each."""
    column, row = column.astype(np.float32), row.astype(np.float32)
    albedo, detail = (
        cv2.remap(plane, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for plane in material
    )
    return float32(albedo), float32(detail)


def shade(layer: Layer, pose: Pose, light: Light) -> Image:
    """Lambert's law plus Blinn's highlight (Blinn 1977, Models of light reflection, p. 193), linear BGR."""
    toward, viewer = pose.to_tyre(light.direction_3), pose.to_tyre(np.array([0.0, 0.0, 1.0]))
    half = (toward + viewer) / np.linalg.norm(toward + viewer)
    nx, ny = layer.normal_x_HW, layer.normal_y_HW
    length = 1 / np.sqrt(nx * nx + ny * ny + 1)
    facing, glancing = (
        np.maximum((nx * np.float32(v[0]) + ny * np.float32(v[1]) + np.float32(v[2])) * length, 0)
        for v in (toward, half)
    )
    shine = layer.gloss_HW * glancing**12 * np.float32(0.2 * light.intensity)
    lit = np.float32(light.ambient) + np.float32(light.intensity) * facing
    return np.asarray(layer.albedo_HWC * lit[..., None] + shine[..., None], np.float32)


def draw_depth(picture: Image, pose: Pose, light: Light) -> None:
    """The tyre's shadow, then its tread seen edge-on: discs from the back to the front, ribs and grooves by turns."""
    shape = (picture.shape[0], picture.shape[1])
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
    back = pose.project(circle - [0, 0, TYRE_DEPTH], shape)
    fall = -light.direction_3[:2] * min(shape) * 0.09
    shadow = blur(polygon(shape, (back + fall).tolist()), min(shape) * 0.03)
    picture *= (1 - 0.65 * shadow)[..., None]
    tone, cover = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for step in range(9, 0, -1):
        share = step / 9
        rounding = 0.94 + 0.06 * np.sin(np.pi * share)
        disc = polygon(shape, pose.project(circle * rounding - [0, 0, TYRE_DEPTH * share], shape).tolist())
        tone += disc * (np.float32(0.012 if step % 3 == 0 else 0.05) - tone)
        cover = np.maximum(cover, disc)
    tone *= np.float32(light.ambient + 0.3 * light.intensity)
    picture += cover[..., None] * (tone[..., None] - picture)


def cast_shade(picture: Image, light: Light, rng: np.random.Generator) -> Image:
    """Uneven light over the whole scene and, at times, the edge of somebody's shadow."""
    shape = (picture.shape[0], picture.shape[1])
    even = 1 + 0.08 * cloud(rng, shape, cells=2, octaves=1)
    across, _ = slanted_axes(rng, shape, most=np.pi)
    edge = np.clip((across - np.float32(rng.uniform(-0.6, 0.6))) * np.float32(rng.uniform(4, 15)) + 0.5, 0, 1)
    picture *= (even * (1 - np.float32(light.shadow) * edge)).astype(np.float32)[..., None]
    return picture
