"""Which images are left out of a split because they hang together with images of different sides.

Nothing that has a side is moved. What is left out is as little as makes the sides whole again, new images first, then
train before val before test: the test images stay what they were. A side that labels.csv gives is never given up.

Shapes: N images, V nodes of the graph of links (the images come first).
"""

from __future__ import annotations

import numpy as np

from tire_pipeline.splits.candidates import Ints
from tire_pipeline.splits.links import Links, Mask

NEW, FIXED = 0, 4  # ranks; between them 1 + the number of the side
NO_SIDE = -1


def left_out(links: Links, kept: Mask, side_N: Ints, fixed: Mask) -> Mask:
    """Of the images that are kept, those that cannot be; `side_N` is 0, 1, 2 for train, val, test, or NO_SIDE."""
    rank_N = np.where(fixed, FIXED, side_N + 1)
    out = _between(links, kept, side_N, rank_N)
    for droppable in (rank_N == NEW, rank_N < FIXED):
        part_N = links.parts(kept & ~out)
        top_P3 = np.zeros((links.num, 3), np.int64)  # the highest rank on each side of each part
        known = kept & ~out & (side_N != NO_SIDE)
        np.maximum.at(top_P3, (part_N[known], side_N[known]), rank_N[known])
        torn_N = ((top_P3 > 0).sum(axis=1) > 1)[part_N]
        weaker_N = (side_N != top_P3.argmax(axis=1)[part_N]) | ((top_P3 == FIXED).sum(axis=1) > 1)[part_N]
        out |= kept & torn_N & weaker_N & droppable
    return out


def _between(links: Links, kept: Mask, side_N: Ints, rank_N: Ints) -> Mask:
    """Images with a direct link to another side: new ones that have two sides beside them, and those whose own side
    ranks lower."""
    side_V = np.append(side_N, np.full(links.num_nodes - links.num, NO_SIDE))
    beside_V3 = np.zeros((links.num_nodes, 3), np.int64)
    direct = links.direct(kept)
    for image, node in direct:
        known = image[side_V[image] != NO_SIDE]
        np.maximum.at(beside_V3, (node[side_V[image] != NO_SIDE], side_V[known]), rank_N[known])
    seen_N3 = beside_V3[: links.num].copy()
    for image, node in direct:
        shared = node >= links.num
        np.maximum.at(seen_N3, image[shared], beside_V3[node[shared]])
    foreign_N3 = np.where(np.arange(3) == side_N[:, None], 0, seen_N3)
    new = rank_N == NEW
    return np.asarray(kept & np.where(new, (seen_N3 > 0).sum(axis=1) > 1, foreign_N3.max(axis=1) > rank_N))
