"""Whether two fingerprints are of one picture: laid on one another, do keypoints and thumbnails agree?

Shapes: M pairs, P keypoints, T thumbnail side, R hypotheses; the last axis is x and y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tire_pipeline.fingerprints import THUMBNAIL, Unpacked

Array = npt.NDArray[Any]

# Chosen by measurement, see docs/adr/0004-near-duplicates.md.
FAR_BITS = 32  # of 128: descriptors further apart say nothing
NEAR_BITS = 8  # closer ones are the same
MATCH_BITS = 24  # close enough to lay one image on the other
EVIDENCE_MIN = 3.0  # keypoints that agree, weighed by how close they are
OVERLAP_MIN = 0.80
# Least evidence, correlation and overlap: where few keypoints are left, as of strong compression or of a small part of
# the picture, the rest must agree the better. Overlap is of one of the images: a crop lies in its original.
ENOUGH = (
    (12.0, 0.85, OVERLAP_MIN),
    (10.0, 0.80, 0.90),
    (12.0, 0.71, 0.98),
    (10.0, 0.745, 0.98),
    (8.0, 0.78, 0.98),
    (5.0, 0.84, 0.98),
    (4.0, 0.92, 0.985),
    (EVIDENCE_MIN, 0.95, 0.99),
)
SCALE_MAX = 1.8
TOLERANCE = 0.02  # of the image's side
NUM_LEADING = 12  # matches from which hypotheses are made
GRID = 40  # samples a side at which thumbnails are compared

_FIRST, _SECOND = np.triu_indices(NUM_LEADING, 1)


@dataclass(frozen=True)
class Agreement:
    """Of M pairs: keypoints that agree (weighed, 0..P), correlation of the thumbnails (−1..1; 0 where too little else
    agrees), and the share of the smaller image that lies on the other (0..1)."""

    evidence_M: Array
    correlation_M: Array
    overlap_M: Array

    @property
    def same(self) -> npt.NDArray[np.bool_]:
        found = np.stack([self.evidence_M, self.correlation_M, self.overlap_M], axis=-1)
        return np.asarray(np.any(np.all(found[:, None] >= np.array(ENOUGH), axis=2), axis=1), bool)


def agree(a: Unpacked, b: Unpacked) -> Agreement:
    """How well each image of `a` agrees with its counterpart in `b`; mirrored copies need `mirror(b)`."""
    bits_MPP = _distances(a, b)
    best_MP = bits_MPP.argmin(axis=2)
    nearest_MP = np.take_along_axis(bits_MPP, best_MP[:, :, None], axis=2)[:, :, 0]
    evidence_M, correlation_M, overlap_M = np.zeros((3, len(bits_MPP)), np.float32)
    # Most pairs end here: too little in common, however they lie.
    some = np.flatnonzero(_weights(nearest_MP).sum(axis=1) >= EVIDENCE_MIN)
    if len(some):
        a, b, bits_MPP = _take(a, some), _take(b, some), bits_MPP[some]
        matched = np.take_along_axis(b.points_NP2, best_MP[some][:, :, None], axis=1)
        scale_M2, shift_M2 = _lay(a.points_NP2, matched, nearest_MP[some])
        low_M2 = np.maximum(0, -shift_M2 / scale_M2)
        high_M2 = np.minimum(1, (1 - shift_M2) / scale_M2)
        part_M = (high_M2 - low_M2).clip(0).prod(axis=1)
        overlap_M[some] = np.maximum(part_M, part_M * scale_M2.prod(axis=1))
        evidence_M[some] = _evidence(a.points_NP2 * scale_M2[:, None] + shift_M2[:, None], b.points_NP2, bits_MPP)
        likely = np.flatnonzero((evidence_M[some] >= EVIDENCE_MIN) & (overlap_M[some] >= OVERLAP_MIN))
        laid, part = (scale_M2[likely], shift_M2[likely]), (low_M2[likely], high_M2[likely])
        correlation_M[some[likely]] = _correlation(_take(a, likely), _take(b, likely), laid, part)
    return Agreement(evidence_M, correlation_M, overlap_M)


def _take(u: Unpacked, rows: Array) -> Unpacked:
    return Unpacked(u.thumbnails_NTT[rows], u.points_NP2[rows], u.descriptors_NPD[rows], u.found_NP[rows])


def _weights(bits: Array) -> Array:
    """1 for descriptors that are the same, 0 for those that say nothing, linear between."""
    return np.clip((FAR_BITS - bits.astype(np.float32)) / (FAR_BITS - NEAR_BITS), 0, 1)


def _distances(a: Unpacked, b: Unpacked) -> Array:
    """Differing bits between each two descriptors (M, P, P); 255 where there is no keypoint."""
    one, other = a.descriptors_NPD.view(np.uint64), b.descriptors_NPD.view(np.uint64)
    bits: Array = np.bitwise_count(one[:, :, None, 0] ^ other[:, None, :, 0])
    bits += np.bitwise_count(one[:, :, None, 1] ^ other[:, None, :, 1])
    bits[~(a.found_NP[:, :, None] & b.found_NP[:, None, :])] = 255
    return bits


def _lay(a_MP2: Array, b_MP2: Array, bits_MP: Array) -> tuple[Array, Array]:
    """Scale and shift (M, 2) that bring most matched keypoints of `a` onto those of `b`.

    Each two of the closest matches are a hypothesis (RANSAC, Fischler & Bolles 1981, without the random); the best is
    fitted to all that agree with it by least squares.
    """
    lead_ML = np.argsort(bits_MP, axis=1, kind="stable")[:, :NUM_LEADING, None]
    a_ML2, b_ML2 = np.take_along_axis(a_MP2, lead_ML, axis=1), np.take_along_axis(b_MP2, lead_ML, axis=1)
    step_MR2, other_MR2 = a_ML2[:, _SECOND] - a_ML2[:, _FIRST], b_ML2[:, _SECOND] - b_ML2[:, _FIRST]
    apart_MR2 = np.abs(step_MR2) > 0.08
    scale_MR2 = other_MR2 / np.where(apart_MR2, step_MR2, 1)
    sound_MR = (apart_MR2 & (scale_MR2 < SCALE_MAX) & (scale_MR2 > 1 / SCALE_MAX)).all(axis=2)
    shift_MR2 = b_ML2[:, _FIRST] - scale_MR2 * a_ML2[:, _FIRST]
    weights_MP = _weights(bits_MP) * (bits_MP <= MATCH_BITS)
    votes_MR = np.zeros(sound_MR.shape, np.float32)
    scale_2MR, shift_2MR = (np.ascontiguousarray(np.moveaxis(x, 2, 0)) for x in (scale_MR2, shift_MR2))
    for p in range(a_MP2.shape[1]):  # a keypoint at a time: the whole would not fit the processor's cache
        x, y = (np.abs(scale_2MR[i] * a_MP2[:, p, i, None] + shift_2MR[i] - b_MP2[:, p, i, None]) for i in (0, 1))
        votes_MR += weights_MP[:, p, None] * (np.maximum(x, y) < TOLERANCE)
    best_M = np.where(sound_MR, votes_MR, -1).argmax(axis=1)
    rows = np.arange(len(best_M))
    scale_M12, shift_M12 = scale_MR2[rows, best_M, None], shift_MR2[rows, best_M, None]
    error_MP = np.abs(scale_M12 * a_MP2 + shift_M12 - b_MP2).max(axis=2)
    return _least_squares(a_MP2, b_MP2, weights_MP * (error_MP < TOLERANCE))


def _least_squares(a_MP2: Array, b_MP2: Array, weights_MP: Array) -> tuple[Array, Array]:
    w_MP1 = (weights_MP / weights_MP.sum(axis=1, keepdims=True).clip(1e-6))[:, :, None]
    mean_a, mean_b = (w_MP1 * a_MP2).sum(axis=1, keepdims=True), (w_MP1 * b_MP2).sum(axis=1, keepdims=True)
    spread = (w_MP1 * (a_MP2 - mean_a) ** 2).sum(axis=1)
    along = (w_MP1 * (a_MP2 - mean_a) * (b_MP2 - mean_b)).sum(axis=1)
    scale = np.where(spread > 1e-4, along / spread.clip(1e-4), 1).clip(1 / SCALE_MAX, SCALE_MAX)
    return scale, mean_b[:, 0] - scale * mean_a[:, 0]


def _evidence(moved_MP2: Array, b_MP2: Array, bits_MPP: Array) -> Array:
    """Keypoints of `a` that have their like in `b` where it belongs, weighed. Spokes and treads have their like
    elsewhere too, so it is looked for here once more."""
    x, y = (np.abs(moved_MP2[:, :, None, i] - b_MP2[:, None, :, i]) for i in (0, 1))
    bits_MP = np.where(np.maximum(x, y) < TOLERANCE, bits_MPP, 255).min(axis=2)
    return np.asarray(_weights(bits_MP).sum(axis=1))


def _correlation(a: Unpacked, b: Unpacked, laid: tuple[Array, Array], part: tuple[Array, Array]) -> Array:
    """Normalised cross-correlation of the thumbnails where they lie on one another."""
    (scale_M2, shift_M2), (low_M2, high_M2) = laid, part
    steps = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID
    at_MG2 = low_M2[:, None] + (high_M2 - low_M2)[:, None] * steps[None, :, None]
    one = _sample(a.thumbnails_NTT, at_MG2)
    other = _sample(b.thumbnails_NTT, at_MG2 * scale_M2[:, None] + shift_M2[:, None])
    one -= one.mean(axis=(1, 2), keepdims=True)
    other -= other.mean(axis=(1, 2), keepdims=True)
    energy = (one * one).sum(axis=(1, 2)) * (other * other).sum(axis=(1, 2))
    return np.asarray((one * other).sum(axis=(1, 2)) / np.sqrt(energy + 1e-6))


def _sample(thumbnails_MTT: Array, at_MG2: Array) -> Array:
    """Bilinear samples (M, G, G) on the lattice of the x and y of `at`, which are 0..1 over the image."""
    pixel = (at_MG2 * THUMBNAIL - 0.5).clip(0, THUMBNAIL - 1.001)
    whole = pixel.astype(np.intp)
    rest = pixel - whole
    m, x, y = np.arange(len(whole))[:, None, None], whole[:, None, :, 0], whole[:, :, None, 1]
    u, v = rest[:, None, :, 0], rest[:, :, None, 1]
    top = thumbnails_MTT[m, y, x] * (1 - u) + thumbnails_MTT[m, y, x + 1] * u
    bottom = thumbnails_MTT[m, y + 1, x] * (1 - u) + thumbnails_MTT[m, y + 1, x + 1] * u
    return np.asarray(top * (1 - v) + bottom * v)
