"""Which tyres there are and what is wrong with each: decided before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tire_pipeline.sample.defects import Kind

View = Literal["sidewall", "tread"]

GOOD, DEFECTIVE = CLASSES = ("good", "defective")
SHOTS = (2, 4)  # of one tyre, least and most: many tyres teach more than many pictures of a few
KINDS: dict[View, tuple[Kind, ...]] = {
    "sidewall": ("crack", "cut", "bulge", "puncture"),
    "tread": ("crack", "cut", "worn", "puncture"),
}


@dataclass(frozen=True)
class Group:
    """One physical tyre. `drawn` is what is wrong with the rubber, `defect` what the labels say is wrong."""

    index: int
    shots: int
    view: View
    drawn: Kind | None
    defect: Kind | None

    @property
    def name(self) -> str:
        """The value of the column `group`."""
        return f"tyre-{self.index:04d}"

    @property
    def label(self) -> str:
        """The folder and the value of the column `label`."""
        return DEFECTIVE if self.defect else GOOD


def plan_groups(
    num_images: int, *, rng: np.random.Generator, defect_rate: float, shuffle_labels: bool = False
) -> list[Group]:
    """Tyres with `num_images` shots between them; in each view the share `defect_rate` of tyres is defective."""
    shots = split_shots(num_images, rng)
    order = rng.permutation(len(shots))
    groups: list[Group] = []
    for number, view in enumerate(KINDS):
        members = order[number :: len(KINDS)]
        num_defective = round(defect_rate * len(members))
        for rank, index in enumerate(members.tolist()):
            kind = KINDS[view][rank % len(KINDS[view])] if rank < num_defective else None
            groups.append(Group(index, shots[index], view, kind, kind))
    groups.sort(key=lambda group: group.index)
    return deal_labels(groups, rng) if shuffle_labels else groups


def split_shots(num_images: int, rng: np.random.Generator) -> list[int]:
    """Shots per tyre, each 2–4, that sum to `num_images` (at least 2)."""
    least, most = SHOTS
    shots: list[int] = []
    left = num_images
    while left > most:
        # Never leave one or two over: they would not make a tyre.
        shots.append(int(rng.integers(least, min(most, left - least) + 1)))
        left -= shots[-1]
    return [*shots, left]


def deal_labels(groups: list[Group], rng: np.random.Generator) -> list[Group]:
    """The same tyres with their labels permuted: what the labels say has nothing to do with the pictures any more."""
    dealt = rng.permutation(len(groups)).tolist()
    return [replace(group, defect=groups[other].defect) for group, other in zip(groups, dealt, strict=True)]
