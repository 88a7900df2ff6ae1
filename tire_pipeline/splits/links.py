"""What belongs together: images linked by group, content, likeness, or by camera and minute.

Images and the things they share are nodes of one graph; what it connects is one group, and stays on one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tire_pipeline.splits.candidates import Ints
from tire_pipeline.splits.likeness import Likeness, compare
from tire_pipeline.splits.near_duplicates import components

SECONDS_APART = 60
CAMERAS_APART = 2**40  # seconds: more than there are in any date
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Links:
    """The graph of N images. `shared` are codes (N,) of given groups, contents and fingerprints, equal where images
    share one, −1 for none; `alike` are pairs of codes of fingerprints. `taken` are positions in the order of `moment`,
    where cameras lie far apart and a second is one. `fixed` images (N,) were given a side.

    What links two images must not hang on a third: that one may be left out. So pairs are made of those that are kept.
    """

    num: int
    shared: tuple[Ints, ...]
    alike: tuple[Ints, Ints]
    taken: Ints
    moment: Ints
    fixed: Mask

    def parts(self, kept: Mask) -> Ints:
        """The number of the part that each image is in, by every link between images that are kept."""
        return self._connect([*self._hubs(kept), self._alike(kept), self._at_once(kept)])

    def clusters(self, kept: Mask) -> Ints:
        """The same by likeness alone: near-duplicates."""
        return self._connect([self._hubs(kept)[-1], self._alike(kept)])

    def direct(self, kept: Mask) -> list[tuple[Ints, Ints]]:
        """Links as (image, node) both ways round; what two images share is a node of its own, after the images."""
        pairs = [self._alike(kept), self._at_once(kept)]
        return [*self._hubs(kept), *pairs, *((b, a) for a, b in pairs)]

    @property
    def num_nodes(self) -> int:
        return self.num + sum(int(codes.max(initial=-1)) + 1 for codes in self.shared)

    def _connect(self, edges: Sequence[tuple[Ints, Ints]]) -> Ints:
        ones, others = (np.concatenate(ends) for ends in zip(*edges, strict=True))
        return components(self.num_nodes, ones, others)[: self.num]

    def _hubs(self, kept: Mask) -> list[tuple[Ints, Ints]]:
        start, edges = self.num, []
        for codes in self.shared:
            images = np.flatnonzero(kept & (codes >= 0))
            edges.append((images, start + codes[images]))
            start += int(codes.max(initial=-1)) + 1
        return edges

    def _alike(self, kept: Mask) -> tuple[Ints, Ints]:
        """For each two fingerprints that are alike an image that has one, and an image that has the other."""
        codes = self.shared[-1]
        owner = np.full(codes.max(initial=-1) + 1, -1)
        images = np.flatnonzero(kept & (codes >= 0))
        owner[codes[images]] = images
        one, other = owner[self.alike[0]], owner[self.alike[1]]
        both = (one >= 0) & (other >= 0)
        return one[both], other[both]

    def _at_once(self, kept: Mask) -> tuple[Ints, Ints]:
        """Images that follow one another on one camera within SECONDS_APART."""
        there = kept[self.taken]
        taken, moment = self.taken[there], self.moment[there]
        near = (np.diff(moment) <= SECONDS_APART) & ~(self.fixed[taken[:-1]] & self.fixed[taken[1:]])
        return taken[:-1][near], taken[1:][near]


def link(index: pd.DataFrame, likeness: Likeness | None = None) -> Links:
    """The links between the rows of an index, which needs the columns sha256, group and split. What looks alike is told
    by `likeness`, else by a column `fingerprint`, else nothing does.

    A group that is the image's own sha256[:16] was not given (see `datasets.snapshots`). Images without a given group
    that one camera took within a minute belong together, unless labels.csv gives both a side: likeness in time is a
    guess, and gives way.
    """
    groups, contents = (pd.factorize(index[column])[0].astype(np.int64) for column in ("group", "sha256"))
    if likeness is None:
        likeness = compare(index["fingerprint"].tolist() if "fingerprint" in index else [b""] * len(index))
    fixed, alike = (index["split"] != "").to_numpy(), (likeness.one, likeness.other)
    return Links(len(index), (groups, contents, likeness.code_N), alike, *_moments(index), fixed)


def is_given(index: pd.DataFrame) -> Mask:
    """Which rows have a group that someone gave them."""
    return np.asarray(index["group"] != index["sha256"].str[:16], bool)


def named(index: pd.DataFrame, links: Links, kept: Mask) -> pd.DataFrame:
    """What each row belongs to among those that are kept, by name: the columns `group` and `cluster`."""
    cluster_N = links.clusters(kept)
    table = {"group": group_names(index, links.parts(kept)), "cluster": _least(cluster_N, index["sha256"].str[:16])}
    return pd.DataFrame(table, index=index.index)


def joined_groups(index: pd.DataFrame, links: Links) -> npt.NDArray[Any]:
    """The name of what each row belongs to, by every link there is."""
    return group_names(index, links.parts(np.ones(len(index), bool)))


def group_names(index: pd.DataFrame, part_N: Ints) -> npt.NDArray[Any]:
    """A name for each row's part: the first of its given groups, else the least of its sha256[:16]."""
    # A given group comes before what was not given, whatever their letters.
    ordered = np.where(is_given(index), " ", "~") + index["group"].to_numpy(object)
    return np.asarray([name[1:] for name in _least(part_N, pd.Series(ordered))], object)


def _least(part_N: Ints, name: pd.Series) -> npt.NDArray[Any]:
    """The least name in each row's part."""
    code_N, found = pd.factorize(name, sort=True)
    least_P = np.full(part_N.max(initial=-1) + 1, len(found))
    np.minimum.at(least_P, part_N, code_N)
    return np.asarray(found.to_numpy(object)[least_P[part_N]], object)


def _moments(index: pd.DataFrame) -> tuple[Ints, Ints]:
    """`taken` and `moment` (see `Links`) of the images without a given group of which camera and time are known."""
    if not {"camera", "captured_at"} <= set(index):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    known = (index["camera"] != "").to_numpy() & (index["captured_at"] != "").to_numpy()
    taken = np.flatnonzero(~is_given(index) & known)
    at = pd.to_datetime(index["captured_at"].iloc[taken], format="ISO8601", utc=True)
    seconds, camera = at.to_numpy("datetime64[s]").astype(np.int64), pd.factorize(index["camera"].iloc[taken])[0]
    moment = camera * CAMERAS_APART + seconds
    order = np.argsort(moment, kind="stable")
    return taken[order], moment[order]
