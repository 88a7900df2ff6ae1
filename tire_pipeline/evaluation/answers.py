"""A bundle's answers on rows of a snapshot, by the very model file and preprocessing that serve."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tire_pipeline.bundle import Bundle, Session
from tire_pipeline.datasets.cache import ImageCache, Images, open_images
from tire_pipeline.errors import InputError
from tire_pipeline.imaging import Pixels, normalise
from tire_pipeline.metrics import Costs, Floats, Scored
from tire_pipeline.stores.objects import ObjectStore

BATCH = 64


@dataclass(frozen=True)
class Answers:
    """`rows`: the index rows with `predicted`, `probability` (of what was predicted), `decision`, `ms` and one column
    `p_<class>` each. `images_NHWC[positions]` are their pixels, at the model's size."""

    rows: pd.DataFrame
    scored: Scored
    images_NHWC: Images
    positions: np.ndarray

    @property
    def groups(self) -> np.ndarray:
        return self.rows["group"].to_numpy()

    def picture(self, row: int) -> Pixels:
        """The pixels (H, W, 3) of a row."""
        return np.asarray(self.images_NHWC[self.positions[row : row + 1]][0])

    def where(self, wanted: np.ndarray) -> Answers:
        """The answers for some of the rows."""
        s = self.scored
        scored = replace(s, y_N=s.y_N[wanted], p_NK=s.p_NK[wanted], predicted_N=s.predicted_N[wanted])
        return Answers(self.rows[wanted].reset_index(drop=True), scored, self.images_NHWC, self.positions[wanted])


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
    images = images_for(store, bundle, usable, cache=cache, name=name)
    positions = np.flatnonzero(wanted)
    p_NK, ms_N = probabilities(bundle, images, positions)
    rows, scored = as_rows(bundle, usable[wanted].reset_index(drop=True), p_NK)
    return Answers(rows.assign(ms=ms_N), scored, images, positions)


def images_for(store: ObjectStore, bundle: Bundle, usable: pd.DataFrame, *, cache: ImageCache, name: str) -> Images:
    """The images of all rows of the snapshot `name`, as the bundle's model sees them."""
    spec = bundle.preprocessing
    return open_images(store, usable, height=spec.height, width=spec.width, how=spec.resize, cache=cache, name=name)


def probabilities(bundle: Bundle, images_NHWC: Images, positions: np.ndarray) -> tuple[Floats, Floats]:
    """Calibrated probabilities (N, K) of the images at the positions, and milliseconds an image (N,), by its batch."""
    session, p_parts, ms_parts = Session(bundle, threads=2), [], []
    session.probabilities(normalise(np.asarray(images_NHWC[positions[:1]]), bundle.preprocessing))  # the first is slow
    for part in (positions[i : i + BATCH] for i in range(0, len(positions), BATCH)):
        began = time.perf_counter()
        p_parts.append(session.probabilities(normalise(np.asarray(images_NHWC[part]), bundle.preprocessing)))
        ms_parts.append(np.full(len(part), (time.perf_counter() - began) * 1000 / len(part)))
    return np.concatenate(p_parts), np.concatenate(ms_parts).round(3)


def gated(bundle: Bundle, test: Answers, places: Sequence[int]) -> tuple[list[tuple[str, str]], int]:
    """(label, decision) of each row at the places as a server owes them, and how many pictures it must send back: what
    the input gate refuses is for `review`."""
    gate, decided, num_refused = bundle.input_gate, [], 0
    for place in places:
        row = test.rows.iloc[place]
        size = {"width": int(row["width"]), "height": int(row["height"])}
        refused = gate is not None and gate.refusal(test.picture(place), **size) is not None
        decided.append((str(row["predicted"]), "review" if refused else str(row["decision"])))
        num_refused += refused
    return decided, num_refused


def as_rows(bundle: Bundle, rows: pd.DataFrame, p_NK: Floats) -> tuple[pd.DataFrame, Scored]:
    """The index rows with what the bundle decides from the probabilities, and the same as arrays. InputError for
    probabilities that are no numbers."""
    if odd := int(np.sum(~np.isfinite(p_NK).all(axis=1))):
        raise InputError(f"{bundle.candidate} answers {odd} of {len(p_NK)} images with no number. Train it again.")
    decided = [bundle.decide(p_K) for p_K in p_NK]
    predicted, probability, decision = ([d[i] for d in decided] for i in range(3))
    rows = rows.assign(predicted=predicted, probability=probability, decision=decision)
    rows = rows.assign(**{f"p_{c}": p_NK[:, k] for k, c in enumerate(bundle.classes)})
    index_of = {c: k for k, c in enumerate(bundle.classes)}
    scored = Scored(
        y_N=rows["label"].map(index_of).to_numpy(),
        p_NK=p_NK,
        predicted_N=rows["predicted"].map(index_of).to_numpy(),
        positives=bundle.positives,
        costs=Costs(*bundle.costs) if bundle.costs else Costs(),
    )
    return rows, scored
