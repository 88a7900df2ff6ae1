"""A bundle's answers on rows of a snapshot, by the very model file and preprocessing that serve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tire_pipeline.bundle import Bundle, Session
from tire_pipeline.datasets.cache import ImageCache, open_images
from tire_pipeline.errors import InputError
from tire_pipeline.imaging import Pixels, normalise
from tire_pipeline.metrics import Scored
from tire_pipeline.stores.objects import ObjectStore

BATCH = 64


@dataclass(frozen=True)
class Answers:
    """`rows`: the index rows with `predicted`, `decision` and one column `p_<class>` each; `images`: their pixels."""

    rows: pd.DataFrame
    scored: Scored
    images_NHWC: Pixels

    @property
    def groups(self) -> np.ndarray:
        return self.rows["group"].to_numpy()


def answer(
    store: ObjectStore, bundle: Bundle, usable: pd.DataFrame, wanted: np.ndarray, *, cache: ImageCache, name: str
) -> Answers:
    """Answers for the rows `usable[wanted]` of the snapshot `name` (its digest).

    Raises InputError when the images have a class that the bundle does not know.
    """
    if unknown := sorted(set(usable["label"]) - set(bundle.classes)):
        raise InputError(
            f"The model {bundle.candidate} knows {', '.join(bundle.classes)}, but the images are also labelled "
            f"{', '.join(unknown)}. Train a model on these classes."
        )
    spec = bundle.preprocessing
    images = open_images(store, usable, height=spec.height, width=spec.width, how=spec.resize, cache=cache, name=name)
    positions = np.flatnonzero(wanted)
    session = Session(bundle, threads=2)
    parts = [positions[i : i + BATCH] for i in range(0, len(positions), BATCH)]
    p_NK = np.concatenate([session.probabilities(normalise(images[part], spec)) for part in parts])
    decided = [bundle.decide(p_K) for p_K in p_NK]
    rows = usable[wanted].reset_index(drop=True)
    rows = rows.assign(predicted=[d[0] for d in decided], decision=[d[2] for d in decided])
    rows = rows.assign(**{f"p_{c}": p_NK[:, k] for k, c in enumerate(bundle.classes)})
    index_of = {c: k for k, c in enumerate(bundle.classes)}
    scored = Scored(
        y_N=rows["label"].map(index_of).to_numpy(),
        p_NK=p_NK,
        predicted_N=rows["predicted"].map(index_of).to_numpy(),
        positive=None if bundle.positive_class is None else index_of[bundle.positive_class],
    )
    return Answers(rows, scored, images[positions])
