"""Near-duplicates among a million images, in time that grows with their number, not with its square.

Candidates are images with descriptors that lie side by side when all are sorted, in several orders of their bytes
(sorted neighbourhoods; Charikar, STOC 2002). Each candidate pair is then laid on one another. Every bound below is a
number an image: nothing grows with how many look alike.

Shapes: N images, C descriptors of all of them, D bytes of a descriptor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tire_pipeline import fingerprints
from tire_pipeline.fingerprints import DESCRIPTOR_BYTES, NUM_KEYPOINTS, Bytes
from tire_pipeline.splits.registration import agree

Ints = npt.NDArray[np.int64]

NUM_ORDERS = 6
NUM_NEIGHBOURS = 4  # in each order
CLOSE_BITS = 20  # of 128
VOTES_MIN = 2  # keypoints in common
CANDIDATES_MAX = 32  # of one image, those with most votes
BATCH = 256


def near_duplicate_pairs(rows_NB: Bytes, distinct: Ints) -> tuple[Ints, Ints]:
    """Numbers of distinct fingerprints that are of one picture; `distinct` are their rows. Enough pairs to connect each
    cluster, not all there are."""
    one, other, mirrored = _candidates(rows_NB, distinct)
    same = np.zeros(len(one), bool)
    for turned in (False, True):
        chosen = np.flatnonzero(mirrored == turned)
        for start in range(0, len(chosen), BATCH):
            part = chosen[start : start + BATCH]
            a, b = (fingerprints.unpack(rows_NB[distinct[ends[part]]]) for ends in (one, other))
            same[part] = agree(a, fingerprints.mirror(b) if turned else b).same
    return one[same], other[same]


def components(num: int, one: npt.NDArray[Any], other: npt.NDArray[Any]) -> Ints:
    """For each of `num` nodes the number of the part of the graph that the edges connect it with."""
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(num, num))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _candidates(rows_NB: Bytes, distinct: Ints) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """Pairs (one < other) with keypoints in common, and whether it was the mirror image that had them."""
    num = len(distinct)
    there = np.flatnonzero(fingerprints.keypoints_of(rows_NB[distinct]))
    plain_CD = fingerprints.descriptors_of(rows_NB[distinct]).reshape(-1, DESCRIPTOR_BYTES)[there]
    codes_CD = np.concatenate([plain_CD, fingerprints.mirror_descriptors(plain_CD)])
    owner_C = np.concatenate([there, there + num * NUM_KEYPOINTS])
    rng = np.random.default_rng(0)
    found = np.zeros(0, np.int64)
    for _ in range(NUM_ORDERS):
        for a, b in _neighbours(codes_CD, rng.permutation(DESCRIPTOR_BYTES)):
            found = _distinct(np.concatenate([found, _as_keys(owner_C[a], owner_C[b], num)]))
    voted = found // NUM_KEYPOINTS
    first = np.flatnonzero(np.diff(voted, prepend=-1))
    votes = np.diff(first, append=len(voted))
    pairs, votes = voted[first][votes >= VOTES_MIN], votes[votes >= VOTES_MIN]
    one, other, mirrored = pairs // 2 // num, pairs // 2 % num, pairs % 2 == 1
    kept = _most_voted(one, votes) & _most_voted(other, votes)
    return one[kept], other[kept], mirrored[kept]


def _neighbours(codes_CD: Bytes, order: npt.NDArray[Any]) -> list[tuple[Ints, Ints]]:
    """Positions of codes that lie side by side by the first 8 bytes of this order, and differ in few bits."""
    key_C = np.ascontiguousarray(codes_CD[:, order[:8]]).view(np.uint64)[:, 0].byteswap()
    sorted_C = np.argsort(key_C, kind="stable")
    low_C, high_C = codes_CD.view(np.uint64)[sorted_C].T.copy()
    near = []
    for step in range(1, NUM_NEIGHBOURS + 1):
        bits = np.bitwise_count(low_C[:-step] ^ low_C[step:]) + np.bitwise_count(high_C[:-step] ^ high_C[step:])
        close = np.flatnonzero(bits <= CLOSE_BITS)
        near.append((sorted_C[close], sorted_C[close + step]))
    return near


def _as_keys(a: Ints, b: Ints, num: int) -> Ints:
    """(one, other, mirrored, keypoint of one) in a number each; what an image has in common with itself is left out."""
    turned_a, image_a = np.divmod(a // NUM_KEYPOINTS, num)
    turned_b, image_b = np.divmod(b // NUM_KEYPOINTS, num)
    keypoint = np.where(image_a < image_b, a, b) % NUM_KEYPOINTS
    one, other = np.minimum(image_a, image_b), np.maximum(image_a, image_b)
    keys = ((one * num + other) * 2 + (turned_a != turned_b)) * NUM_KEYPOINTS + keypoint
    return np.asarray(keys[one != other], np.int64)


def _distinct(keys: Ints) -> Ints:
    """Each once, in order. numpy's own `unique` goes by a hash table, which takes five times as long."""
    keys.sort()
    return np.asarray(keys[np.diff(keys, prepend=-1) > 0], np.int64)


def _most_voted(image: Ints, votes: Ints) -> npt.NDArray[np.bool_]:
    """Which pairs are among the CANDIDATES_MAX of their image that have most votes."""
    order = np.lexsort((-votes, image))
    start = np.searchsorted(image[order], image[order])
    kept = np.zeros(len(image), bool)
    kept[order] = np.arange(len(image)) - start < CANDIDATES_MAX
    return kept
