"""Which images a registered version learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tire_pipeline.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from tire_pipeline.wiring import Services


def learnt_by(
    s: Services,
    tags: Mapping[str, str],
    rows: pd.DataFrame,
    *,
    groups: bool = False,
    known: pd.DataFrame | None = None,
) -> np.ndarray:
    """For each row of an index, whether the version with these tags was trained or calibrated on that image; with
    `groups` also on another of its group, which is more than certain: two dataset versions may call different things
    by one name. `known`: path, sha256 and group of the usable rows of the version's snapshot, if at hand.

    InputError when its snapshot or split is gone, so that nobody can tell.
    """
    from tire_pipeline.datasets import snapshots

    digest, split = tags["tire.snapshot"], tags["tire.split"]
    key = snapshots.split_key(digest, split)
    if s.objects.head(key) is None:
        raise InputError(
            f"The split {split[:12]} that {tags.get('tire.candidate', 'this model')} was trained with is gone ({key}), "
            "so nobody can tell which images it learnt from. Restore the object, or train the model again."
        )
    if known is None:
        known = snapshots.load(s.objects, digest, columns=["path", "sha256", "label", "group", "error"]).usable
    sides = snapshots.read_frame(s.objects, key).set_index("path")["side"]
    learnt = known[known["path"].map(sides).isin(["train", "val"])]
    same = rows["sha256"].isin(learnt["sha256"])
    return (same | rows["group"].isin(learnt["group"])).to_numpy() if groups else same.to_numpy()
