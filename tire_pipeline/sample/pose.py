"""Where the camera stands and where the light comes from. Camera axes: x right, y down, z towards the viewer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tire_pipeline.sample.rubber import pixel_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tire_pipeline.sample.rubber import Image

DISTANCE = 4.5  # from camera to tyre, in tyre units: strong enough a perspective to be seen


@dataclass(frozen=True)
class Pose:
    """A pinhole camera over the plane of the tyre."""

    rotation_33: NDArray[np.float64]  # tyre to camera axes
    target: tuple[float, float]  # the point of the tyre in the middle of the picture, in units
    scale: float  # half short sides of the picture per unit

    @classmethod
    def of(cls, *, roll: float, tilt: float, tilt_about: float, target: tuple[float, float], scale: float) -> Pose:
        """Roll the picture, then tilt the plane by `tilt` about the in-plane axis `tilt_about` (all in radians)."""
        axis = np.array([np.cos(tilt_about), np.sin(tilt_about), 0.0])
        return cls(rodrigues(axis, tilt) @ rodrigues(np.array([0.0, 0.0, 1.0]), roll), target, scale)

    def project(self, points_N3: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
        """Pixel positions (N, 2) of points of the tyre in units."""
        half = min(shape) / 2
        seen = (points_N3 - [*self.target, 0.0]) @ self.rotation_33.T
        flat = seen[:, :2] * (self.scale * half * DISTANCE / (DISTANCE - seen[:, 2:]))
        return np.asarray(flat + np.array([shape[1] - 1, shape[0] - 1]) / 2)

    def unproject(self, shape: tuple[int, int]) -> tuple[Image, Image]:
        """The point (x_HW, y_HW) of the tyre's plane seen by every pixel, in units."""
        corners = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
        middle = np.array([shape[1] - 1, shape[0] - 1]) / 2
        seen = (self.project(corners, shape) - middle) * 2 / min(shape)
        m = np.linalg.inv(homography(corners[:, :2], seen)).astype(np.float32)
        u, v = pixel_grid(shape)
        w = m[2, 0] * u + m[2, 1] * v + m[2, 2]
        return (m[0, 0] * u + m[0, 1] * v + m[0, 2]) / w, (m[1, 0] * u + m[1, 1] * v + m[1, 2]) / w

    def to_tyre(self, direction_3: NDArray[np.float64]) -> NDArray[np.float64]:
        """A direction given in camera axes, in the tyre's axes."""
        return np.asarray(self.rotation_33.T @ direction_3)


@dataclass(frozen=True)
class Light:
    """One lamp far away and what the walls give back."""

    direction_3: NDArray[np.float64]  # towards the lamp, in camera axes, length 1
    intensity: float
    ambient: float
    shadow: float  # 0 none .. 1 black: the shade that something out of the picture casts on a part of it

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Light:
        """A lamp somewhere on the viewer's side."""
        azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.1)
        flat = np.cos(elevation)
        direction = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
        shadow = rng.uniform(0.2, 0.5) if rng.random() < 0.3 else 0.0
        return cls(direction, rng.uniform(0.9, 1.5), rng.uniform(0.3, 0.55), shadow)


def rodrigues(axis_3: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """The rotation by `angle` radians about a unit axis (Rodrigues' formula)."""
    x, y, z = axis_3
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def homography(source_42: NDArray[np.float64], target_42: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 3×3 matrix that takes four points of one plane to four of another."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source_42, target_42, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(values)), 1.0).reshape(3, 3)
