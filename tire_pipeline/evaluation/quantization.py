"""The INT8 form of a bundle, for servers without much of a processor."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from tire_pipeline.bundle import MODEL, Bundle, Session
from tire_pipeline.datasets.cache import Images
from tire_pipeline.imaging import decode, normalise, prepare
from tire_pipeline.metrics import Floats

NUM_CALIBRATION = 128
BATCH = 16


def quantized(bundle: Bundle, images_NHWC: Images, train: np.ndarray, folder: Path) -> Bundle:
    """Write the bundle's INT8 form into `folder` (new): static, QDQ, its ranges taken from 128 training images.

    Classes, temperature and threshold stay; its golden answers and its name are its own. Whether it is good enough is
    for an evaluation of its own to say.
    """
    shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns(MODEL, "model.safetensors", "training.json"))
    chosen = train[:: max(1, len(train) // NUM_CALIBRATION)][:NUM_CALIBRATION]
    batches = (np.asarray(images_NHWC[chosen[i : i + BATCH]]) for i in range(0, len(chosen), BATCH))
    with tempfile.TemporaryDirectory(prefix="tire-int8-") as tmp:
        prepared = Path(tmp) / MODEL
        quant_pre_process(str(bundle.path / MODEL), str(prepared), skip_symbolic_shape=True)
        reader = _Batches(normalise(batch, bundle.preprocessing) for batch in batches)
        quantize_static(
            str(prepared),
            str(folder / MODEL),
            reader,
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    return _with_own_golden(replace(bundle, path=folder, candidate=f"{bundle.candidate}-int8", digest=""))


class _Batches(CalibrationDataReader):
    """Batches (B, C, H, W) one after the other, as onnxruntime asks for them."""

    def __init__(self, batches: Iterator[Floats]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Floats] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _with_own_golden(bundle: Bundle) -> Bundle:
    pixels = [decode(png) for png, _ in bundle.golden_images()]
    x_BCHW = np.stack([prepare(p, bundle.preprocessing) for p in pixels])
    return bundle.with_golden(pixels, Session(bundle).probabilities(x_BCHW)).save()
