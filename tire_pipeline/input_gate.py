"""Whether a picture is fit to be judged: large, light and sharp enough, and like those the model learnt from.

Everything is measured at the model's own size, on the pixels the model sees, so that training and serving agree.
Likeness is the Mahalanobis distance in a space of 34 image statistics. The classifier's own embedding was tried and
lost: of other photographs, text, noise and plain colour it let through 0 to 100 %, whichever the network
(docs/adr/0016-retake-instead-of-a-guess.md).

Shapes: N images, H height, W width, C channels (RGB), D statistics.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from tire_pipeline import imaging
from tire_pipeline.imaging import Pixels

Floats = npt.NDArray[np.float32]

SIDE = 64  # of the square that is described, pixels
BANDS = 4
DIRECTIONS = 8
SHRINKAGE = 0.1  # of the covariance towards independence: a few hundred images describe 34 dimensions badly
MARGIN = 1.3  # beyond the 99th percentile of images that were held out
LIGHT_MARGIN = 0.5  # below the 1st percentile of what was trained on
FIT_MAX = 1000
CHUNK = 64


@dataclass(frozen=True)
class Retake:
    """Why a picture should be taken again: `why` is `small`, `dark`, `blurred` or `unlike`; `text` is for people."""

    why: str
    text: str


@dataclass(frozen=True)
class InputGate:
    """Limits below or above which a picture is not judged. `side_min` in pixels of the file; `brightness_min` and
    `sharpness_min` as `imaging` measures them, at the model's size. `space` holds centre, scale and whitening of the
    statistics: float32 (D + 2, D) in base64.
    """

    side_min: int
    brightness_min: float
    sharpness_min: float
    distance_max: float
    space: str

    def refusal(self, pixels_HWC: Pixels, *, width: int, height: int) -> Retake | None:
        """Why the picture is not fit, None where it is. The pixels are the model's, `width` and `height` the file's."""
        if min(width, height) < self.side_min:
            return Retake("small", f"The picture is too small ({width} × {height}, needed {self.side_min} a side).")
        if (light := imaging.brightness(pixels_HWC)) < self.brightness_min:
            text = f"The picture is too dark (brightness {light:.0f}, needed {self.brightness_min:.0f} of 255)."
            return Retake("dark", text)
        if (sharp := imaging.sharpness(pixels_HWC)) < self.sharpness_min:
            text = f"The picture is too blurred (sharpness {sharp:.1f}, needed {self.sharpness_min:.1f})."
            return Retake("blurred", text)
        if (distance := self.distance(pixels_HWC)) > self.distance_max:
            allowed = f"distance {distance:.1f}, at most {self.distance_max:.1f}"
            return Retake("unlike", f"The picture is unlike those the model learnt from ({allowed}).")
        return None

    def distance(self, pixels_HWC: Pixels) -> float:
        """Mahalanobis distance from the images that were trained on, divided by the root of D: about 1 for them."""
        centre_D, scale_D, whitening_DD = self._space[0], self._space[1], self._space[2:]
        z_D = (statistics(pixels_HWC) - centre_D) / scale_D
        return float(np.sqrt(np.mean((whitening_DD @ z_D) ** 2)))

    @cached_property
    def _space(self) -> Floats:
        values = np.frombuffer(base64.b64decode(self.space), "<f4")
        side = int(np.sqrt(len(values) + 1)) - 1  # D² + 2 D numbers
        return values.reshape(side + 2, side)


class Rows(Protocol):
    """Images (N, H, W, C) by row: an array, or what stands for one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, rows: npt.NDArray[np.integer[Any]], /) -> Pixels: ...


def fit_input_gate(
    images_NHWC: Rows, train: npt.NDArray[np.integer[Any]], held_out: npt.NDArray[np.integer[Any]]
) -> InputGate:
    """The gate of a model that learnt from the rows `train`; how far is too far comes from the rows `held_out`.

    `images_NHWC` are at the model's size. At most `FIT_MAX` images of each are looked at, evenly spread.
    """
    train, held_out = (rows[:: -(-len(rows) // FIT_MAX)] for rows in (train, held_out))
    known = [(statistics(p), imaging.brightness(p), imaging.sharpness(p)) for p in _each(images_NHWC, train)]
    known_ND = np.stack([found_D for found_D, _, _ in known])
    centre_D, scale_D = known_ND.mean(axis=0), known_ND.std(axis=0) + np.float32(1e-3)
    z_ND = (known_ND - centre_D) / scale_D
    size = z_ND.shape[1]
    covariance_DD = (1 - SHRINKAGE) * (z_ND.T @ z_ND) / len(z_ND) + SHRINKAGE * np.eye(size)
    values_D, vectors_DD = np.linalg.eigh(covariance_DD)
    whitening_DD = (vectors_DD / np.sqrt(values_D)).T
    space = np.concatenate([centre_D[None], scale_D[None], whitening_DD]).astype("<f4")
    gate = InputGate(
        side_min=min(images_NHWC.shape[1:3]) // 2,
        brightness_min=round(LIGHT_MARGIN * float(np.percentile([light for _, light, _ in known], 1)), 2),
        sharpness_min=round(LIGHT_MARGIN * float(np.percentile([sharp for _, _, sharp in known], 1)), 2),
        distance_max=float("inf"),
        space=base64.b64encode(space.tobytes()).decode(),
    )
    far = float(np.percentile([gate.distance(p) for p in _each(images_NHWC, held_out)], 99))
    return replace(gate, distance_max=round(MARGIN * far, 4))


def statistics(pixels_HWC: Pixels) -> Floats:
    """(D,) of one image: colour, light, detail by scale, directions of edges, and where the light is."""
    small = imaging.shrink(pixels_HWC, height=SIDE, width=SIDE)
    lab_HWC = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    mean_C, std_C = cv2.meanStdDev(lab_HWC)
    light_HW = np.ascontiguousarray(lab_HWC[..., 0])
    counts = np.cumsum(np.bincount(light_HW.ravel(), minlength=256)) / light_HW.size
    values_HW = light_HW.astype(np.float32)
    parts = [
        mean_C.ravel(),
        std_C.ravel(),
        np.searchsorted(counts, [0.05, 0.5, 0.95]),
        _detail(values_HW),
        _directions(values_HW),
        cv2.resize(values_HW, (3, 3), interpolation=cv2.INTER_AREA).ravel() - mean_C[0],
    ]
    return np.concatenate(parts).astype(np.float32)


def _detail(light_HW: npt.NDArray[Any]) -> Floats:
    """How much there is to see in each of `BANDS` octaves, and how evenly spread it is."""
    found, rest_HW = [], light_HW
    for _ in range(BANDS):
        low_HW = cv2.GaussianBlur(rest_HW, (0, 0), 1.5)
        strength = float(np.log1p(cv2.norm(rest_HW, low_HW, cv2.NORM_L2) / rest_HW.size**0.5))
        found += [strength, float(np.log1p(cv2.norm(rest_HW, low_HW, cv2.NORM_L1) / rest_HW.size)) - strength]
        rest_HW = low_HW[::2, ::2]
    return np.array(found, np.float32)


def _directions(light_HW: npt.NDArray[Any]) -> Floats:
    """Shares of `DIRECTIONS` directions in the edges."""
    x_HW, y_HW = cv2.Sobel(light_HW, cv2.CV_32F, 1, 0), cv2.Sobel(light_HW, cv2.CV_32F, 0, 1)
    length_HW, turn_HW = cv2.cartToPolar(x_HW, y_HW)
    bins_HW = (turn_HW * (DIRECTIONS / np.pi)).astype(np.int32) % DIRECTIONS  # an edge and its opposite are one
    counts = np.bincount(bins_HW.ravel(), weights=length_HW.ravel(), minlength=DIRECTIONS)
    return np.asarray(counts / (counts.sum() + 1e-3), np.float32)


def _each(images_NHWC: Rows, rows: npt.NDArray[np.integer[Any]]) -> Iterator[Pixels]:
    for start in range(0, len(rows), CHUNK):
        yield from images_NHWC[rows[start : start + CHUNK]]
