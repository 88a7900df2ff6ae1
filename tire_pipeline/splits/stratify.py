"""Sides for new groups: by a stable hash, then moved as little as evens out the classes.

Shapes: G groups, L labels, S = 3 sides, M groups that might be moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from tire_pipeline.splits.candidates import Ints

FRACTIONS = {"train": 0.65, "val": 0.15, "test": 0.20}
SIDES = tuple(FRACTIONS)
TOLERANCE = 0.05  # of a label's images: less is left to the hash
MOVABLE_MAX = 500  # groups that are looked at for one move
MOVES_MAX = 200

Floats = npt.NDArray[np.float64]
_SHARE_S = np.array(list(FRACTIONS.values()))
_BOUNDS_S = np.cumsum(_SHARE_S)
_MIDDLES_S = _BOUNDS_S - _SHARE_S / 2


def stratified(names: Sequence[str], count_GL: Any, held_LS: Ints, *, seed: int) -> Ints:
    """The side (0, 1, 2) of each new group.

    `count_GL` (sparse) says how many images of each label a group has, `held_LS` how many each side has already. A
    label's images on a side may miss their fraction by TOLERANCE; beyond it, groups move to the side that lacks them,
    as long as that makes the whole better. Many groups need no move, so that their hash alone decides.
    """
    count_GL = csr_array(count_GL)
    place_G = np.array([_unit_hash(f"{seed}|{name}") for name in names])
    side_G = np.minimum(np.searchsorted(_BOUNDS_S, place_G, side="right"), 2)
    held_LS = held_LS + np.stack([count_GL.T @ (side_G == s).astype(np.int64) for s in range(3)], axis=1)
    for _ in range(MOVES_MAX):
        if (move := _best_move(count_GL, held_LS, side_G, place_G)) is None:
            break
        group, to = move
        counts_L = count_GL[[group]].toarray()[0]
        held_LS[:, side_G[group]] -= counts_L
        held_LS[:, to] += counts_L
        side_G[group] = to
    return side_G


def _best_move(count_GL: Any, held_LS: Ints, side_G: Ints, place_G: Floats) -> tuple[int, int] | None:
    """The group and the side it should go to, for the label that is worst off and can be helped; None when none is."""
    off_L = np.abs(_shares(held_LS) - _SHARE_S).max(axis=1)
    lacking_L = (held_LS == 0).any(axis=1)
    now = _badness(held_LS[None])[0]
    for label in np.argsort(-(off_L + lacking_L), kind="stable"):
        if off_L[label] <= TOLERANCE and not lacking_L[label]:
            return None
        owners = count_GL[:, [label]].nonzero()[0]
        best = (now - 1e-9, -1, -1)
        for to in range(3):
            movable = owners[side_G[owners] != to]
            movable = movable[np.argsort(np.abs(place_G[movable] - _MIDDLES_S[to]), kind="stable")][:MOVABLE_MAX]
            if len(movable):
                badness_M = _badness(_after(held_LS, count_GL[movable].toarray(), side_G[movable], to))
                first = int(badness_M.argmin())
                best = min(best, (float(badness_M[first]), int(movable[first]), to))
        if best[1] >= 0:
            return best[1], best[2]
    return None


def _after(held_LS: Ints, counts_ML: Ints, side_M: Ints, to: int) -> Ints:
    """What the sides would hold (M, L, S) after each of M moves."""
    moved_MLS = np.zeros((*counts_ML.shape, 3), np.int64)
    moved_MLS[np.arange(len(side_M)), :, side_M] -= counts_ML
    moved_MLS[:, :, to] += counts_ML
    return held_LS + moved_MLS


def _shares(held: Ints) -> Floats:
    return np.asarray(held / np.maximum(held.sum(axis=-1, keepdims=True), 1))


def _badness(held_MLS: Ints) -> Floats:
    """Squared distances of the shares from the fractions, and 1 for each side that lacks a label."""
    return np.asarray(((_shares(held_MLS) - _SHARE_S) ** 2 + (held_MLS == 0)).sum(axis=(1, 2)), np.float64)


def _unit_hash(key: str) -> float:
    """A stable hash in [0, 1)."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
