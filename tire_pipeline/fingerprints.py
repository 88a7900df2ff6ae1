"""Fingerprints: 2.3 kB an image, by which altered copies are found again without the pixels.

An image is squeezed to a square, so that a crop of it is a scale and a shift along each axis. Kept are a thumbnail of
its detail and its strongest SIFT keypoints (Lowe, IJCV 2004), upright and cut down to a bit a dimension (Zhou et al.,
ACM Multimedia 2012): such a descriptor mirrors by moving its bits.

Shapes: N images, P keypoints of each, D bytes of a descriptor, T thumbnail side, H height, W width, C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from tire_pipeline.errors import InputError
from tire_pipeline.imaging import Pixels, shrink

VERSION = 2
SIDE = 80  # of the square that is looked at, pixels; 112 finds 1 % more, at 1.5 times the price
THUMBNAIL = 48
AROUND = 4.5  # pixels of the thumbnail: what changes more slowly is light
NUM_KEYPOINTS = 64
DESCRIPTOR_BYTES = 16
CONTRAST = 0.005  # an eighth of SIFT's usual threshold: rubber and steel are dull

_THUMBNAIL_END = 2 + THUMBNAIL * THUMBNAIL // 2
_POINTS_END = _THUMBNAIL_END + 2 * NUM_KEYPOINTS
NUM_BYTES = _POINTS_END + NUM_KEYPOINTS * DESCRIPTOR_BYTES

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Unpacked:
    """N fingerprints: thumbnails (N, T, T) 0..15, keypoints (N, P, 2) as x and y in 0..1, descriptors (N, P, D), and
    which of the P there are (N, P)."""

    thumbnails_NTT: Floats
    points_NP2: Floats
    descriptors_NPD: Bytes
    found_NP: npt.NDArray[np.bool_]


def fingerprint(pixels_HWC: Pixels) -> bytes:
    """NUM_BYTES of an image of any size: version, number of keypoints, thumbnail, positions, descriptors. 4 ms."""
    grey_HW = shrink(cast(Pixels, cv2.cvtColor(pixels_HWC, cv2.COLOR_RGB2GRAY)), height=SIDE, width=SIDE)
    points_P2, descriptors_PD = np.zeros((NUM_KEYPOINTS, 2), np.uint8), np.zeros((NUM_KEYPOINTS, 128), bool)
    sift = cv2.SIFT.create(contrastThreshold=CONTRAST)
    if keypoints := _strongest(sift.detect(grey_HW, None)):
        _, found_KD = sift.compute(grey_HW, keypoints)
        points_P2[: len(keypoints)] = (np.array([k.pt for k in keypoints]) + 0.5) * (255 / SIDE)
        descriptors_PD[: len(keypoints)] = found_KD > np.median(found_KD, axis=1, keepdims=True)
    steps = _detail(grey_HW).reshape(-1, 2)
    packed = steps[:, 0] << 4 | steps[:, 1]
    head = bytes([VERSION, len(keypoints)])
    return head + packed.tobytes() + points_P2.tobytes() + np.packbits(descriptors_PD, axis=1).tobytes()


def stack(fingerprints: Sequence[bytes]) -> Bytes:
    """Fingerprints as rows (N, NUM_BYTES). InputError for what this code did not write."""
    for number, one in enumerate(fingerprints):
        if len(one) != NUM_BYTES or one[0] != VERSION:
            raise InputError(
                f"Fingerprint {number} has {len(one)} bytes and version {one[0] if one else 'none'}; this release "
                f"reads {NUM_BYTES} bytes of version {VERSION}. Take the snapshot again: `tire validate VERSION`."
            )
    return np.frombuffer(b"".join(fingerprints), np.uint8).reshape(-1, NUM_BYTES)


def unpack(rows_NB: Bytes) -> Unpacked:
    """The parts of fingerprints given as rows of bytes."""
    packed = rows_NB[:, 2:_THUMBNAIL_END]
    points = rows_NB[:, _THUMBNAIL_END:_POINTS_END].reshape(-1, NUM_KEYPOINTS, 2)
    return Unpacked(
        np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1, THUMBNAIL, THUMBNAIL).astype(np.float32),
        points.astype(np.float32) / np.float32(255),
        descriptors_of(rows_NB),
        keypoints_of(rows_NB),
    )


def descriptors_of(rows_NB: Bytes) -> Bytes:
    """(N, P, D), the strongest first."""
    return np.ascontiguousarray(rows_NB[:, _POINTS_END:]).reshape(-1, NUM_KEYPOINTS, DESCRIPTOR_BYTES)


def keypoints_of(rows_NB: Bytes) -> npt.NDArray[np.bool_]:
    """(N, P): which keypoints there are."""
    return np.arange(NUM_KEYPOINTS) < rows_NB[:, 1:2]


def mirror(u: Unpacked) -> Unpacked:
    """What the images would have, mirrored left to right."""
    points_NP2 = u.points_NP2.copy()
    points_NP2[..., 0] = 1 - points_NP2[..., 0]
    return Unpacked(u.thumbnails_NTT[:, :, ::-1], points_NP2, mirror_descriptors(u.descriptors_NPD), u.found_NP)


def mirror_descriptors(descriptors: Bytes) -> Bytes:
    """A byte is one of 4 × 4 cells, a bit one of its 8 directions: the columns turn round, and so do the directions."""
    cells = descriptors.reshape(*descriptors.shape[:-1], 4, 4)
    return _TURNED[cells[..., ::-1]].reshape(descriptors.shape)


def _strongest(keypoints: Sequence[cv2.KeyPoint]) -> list[cv2.KeyPoint]:
    """One upright keypoint a place. Large ones count for more: they outlive compression."""
    ordered = sorted(keypoints, key=lambda k: (-k.response * k.size**0.5, k.pt))
    upright = {k.pt: cv2.KeyPoint(k.pt[0], k.pt[1], k.size, 0, k.response, k.octave) for k in ordered}
    return list(upright.values())[:NUM_KEYPOINTS]


def _detail(grey_HW: Pixels) -> Bytes:
    """Detail at T × T in 16 steps: slow changes of light are taken out, and weak detail is lifted beside strong."""
    small = cv2.resize(grey_HW, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
    detail = small - cv2.GaussianBlur(small, (0, 0), AROUND)
    around = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), AROUND))
    even = detail / (around + 0.3 * detail.std() + 0.3)
    steps = np.clip(np.round(8 + 2.5 * even / max(float(even.std()), 0.5)), 0, 15)
    return np.asarray(steps, np.uint8)


def _turned_bytes() -> Bytes:
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return np.packbits(bits[:, [(4 - k) % 8 for k in range(8)]], axis=1)[:, 0]


_TURNED = _turned_bytes()
