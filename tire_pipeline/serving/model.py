"""One bundle loaded, verified and tried on its golden images; and the slot that holds the one that answers now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tire_pipeline.bundle import Bundle, Floats, Session
from tire_pipeline.errors import InputError, one_line
from tire_pipeline.imaging import decode, prepare

if TYPE_CHECKING:  # who classifies without a server has no use for its metrics
    from prometheus_client import Gauge

    from tire_pipeline.serving.metrics import ServingMetrics

UNREGISTERED = 0
GOLDEN_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A bundle that passed its golden images. `version` is the registry's, or `UNREGISTERED` for a bare folder."""

    version: int
    bundle: Bundle
    session: Session

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one prepared image."""
        spec = self.bundle.preprocessing
        return 3, spec.height, spec.width


class ModelSlot:
    """The model that answers now, None until the first is loaded. Reading `current` once gives a consistent model.

    `info` is the gauge that names the model: the champion's unless the slot is the challenger's.
    """

    def __init__(self, project: str, metrics: ServingMetrics, *, info: Gauge | None = None) -> None:
        self.project, self._info = project, info or metrics.model
        self.current: LoadedModel | None = None

    def swap(self, model: LoadedModel) -> None:
        """Answer with `model` from the next request on; requests under way end with the one they started with."""
        self._info.clear()
        self._info.labels(self.project, model.version, model.bundle.digest, model.bundle.candidate).set(1)
        self.current = model

    def clear(self) -> None:
        """Hold no model from the next request on."""
        self._info.clear()
        self.current = None


def load_model(path: Path, *, version: int = UNREGISTERED, threads: int = 1) -> LoadedModel:
    """The bundle at `path`, its files compared with their digests and its model tried on the golden images.

    Raises InputError naming what is damaged, missing, or answered differently from what the bundle promises.
    """
    bundle = Bundle.load(path)
    model = LoadedModel(version, bundle, Session(bundle, threads=threads))
    check_golden(model)
    return model


def check_golden(model: LoadedModel) -> None:
    """Raises InputError unless every golden image, alone and in one batch with the others, gets its promised
    probabilities within `GOLDEN_TOLERANCE`."""
    golden = model.bundle.golden_images()
    if not golden:
        raise InputError(f"The bundle {model.bundle.path} has no golden images to check it by. Export it again.")
    images = [_prepared(model, png) for png, _ in golden]
    expected_NK = np.array([expected_K for _, expected_K in golden], np.float32)
    for i, x_CHW in enumerate(images):
        _compare(model, f"golden image {i}", x_CHW[None], expected_NK[i : i + 1])
    rows = [*range(len(golden)), 0]  # a batch is two images at least
    _compare(model, "its golden images in one batch", np.stack([images[i] for i in rows]), expected_NK[rows])


def _prepared(model: LoadedModel, png: bytes) -> Floats:
    """(C, H, W), by everything that the bundle says of a picture."""
    spec, gate = model.bundle.preprocessing, model.bundle.input_gate
    pixels_HWC = decode(png)
    try:
        if gate:
            gate.distance(pixels_HWC)
        return prepare(pixels_HWC, spec)
    except Exception as error:  # whatever numpy and OpenCV make of sizes and statistics that are none
        raise InputError(f"The bundle {model.bundle.path} cannot prepare a picture: {one_line(error)}") from error


def _compare(model: LoadedModel, what: str, x_BCHW: Floats, expected_BK: Floats) -> None:
    path = model.bundle.path
    try:
        p_BK = model.session.probabilities(x_BCHW)
    except Exception as error:  # onnxruntime's own exceptions share no base
        raise InputError(f"The model of {path} cannot answer {what}: {one_line(error)}") from error
    if p_BK.shape != expected_BK.shape:
        raise InputError(f"The model of {path} gives {what} probabilities {p_BK.shape}, not {expected_BK.shape}.")
    difference = float(np.abs(p_BK - expected_BK).max())
    if not difference <= GOLDEN_TOLERANCE:  # also true of NaN
        raise InputError(
            f"The bundle {path} answers {what} with probabilities that are {difference:.3g} off what it promises "
            f"(allowed: {GOLDEN_TOLERANCE:g}). It is not served; export it again."
        )
