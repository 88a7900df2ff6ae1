"""Near-duplicates: candidates (see `candidates`) that are one picture when they are laid on one another."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tire_pipeline import fingerprints
from tire_pipeline.fingerprints import Bytes
from tire_pipeline.splits.candidates import Ints, candidates
from tire_pipeline.splits.registration import agree

BATCH = 256


def near_duplicate_pairs(rows_NB: Bytes, distinct: Ints) -> tuple[Ints, Ints]:
    """Numbers of distinct fingerprints that are of one picture; `distinct` are their rows. Enough pairs to connect each
    cluster, not all there are."""
    one, other, mirrored = candidates(rows_NB, distinct)
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
