"""From a fitted model to a bundle: weights, ONNX, calibration, threshold, golden images."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from tire_pipeline.bundle import MODEL, Bundle, Session, softmax
from tire_pipeline.datasets.cache import Images
from tire_pipeline.errors import TireError
from tire_pipeline.imaging import Preprocessing, normalise
from tire_pipeline.input_gate import fit_input_gate
from tire_pipeline.metrics import Costs, Floats, Ints, Scored
from tire_pipeline.models import Classifier
from tire_pipeline.several_labels import positives
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.loop import predict_logits
from tire_pipeline.training.threshold import choose_threshold, review_band
from tire_pipeline.training.trained import save_network

NUM_GOLDEN = 8
PARITY_MAX = 1e-4


def export(
    model: Classifier,
    images_NHWC: Images,
    labels_N: Ints,
    val: Ints,
    *,
    train: Ints,
    classes: list[str],
    positive_class: str | None,
    config: TrainingConfig,
    snapshot_digest: str,
    folder: Path,
) -> Bundle:
    """Write the bundle into `folder` (empty). Calibration and threshold come from the validation rows, the input
    gate from those and the training rows.

    Raises TireError when onnxruntime and torch disagree by more than 1e-4 in a probability.
    """
    save_network(model, config, folder)
    preprocessing = Preprocessing(config.image_height, config.image_width, model.mean, model.std, config.resize)
    write_onnx(model, preprocessing, folder / MODEL)
    logits_NK = predict_logits(model, images_NHWC, val).numpy()
    temperature = fit_temperature(logits_NK, labels_N[val])
    p_NK = softmax(logits_NK / np.float32(temperature))
    costs = Costs(config.cost_miss, config.cost_alarm) if config.cost_miss and config.cost_alarm else None
    threshold = 0.5
    if positive_class is not None:
        s = Scored(labels_N[val], p_NK, p_NK.argmax(axis=1), positives(classes, positive_class))
        threshold = choose_threshold(s.score, s.truth, costs=costs, recall_min=config.min_recall)
    bundle = Bundle(
        path=folder,
        classes=classes,
        positive_class=positive_class,
        preprocessing=preprocessing,
        candidate=config.model_type,
        snapshot_digest=snapshot_digest,
        temperature=temperature,
        threshold=threshold,
        review_band=review_band(threshold, costs=costs, review_cost=config.cost_review),
        costs=(costs.miss, costs.alarm) if costs else None,
        recall_min=config.min_recall,
        input_gate=fit_input_gate(images_NHWC, train, val),
    )
    golden = val[:: max(1, len(val) // NUM_GOLDEN)][:NUM_GOLDEN]
    x_BCHW = normalise(images_NHWC[golden], preprocessing)
    served = Session(bundle).probabilities(x_BCHW)
    with torch.inference_mode():
        trained = softmax(model(torch.from_numpy(x_BCHW)).numpy() / np.float32(temperature))
    check_parity(served, trained)
    return bundle.with_golden(list(images_NHWC[golden]), served).save()


def write_onnx(model: nn.Module, preprocessing: Preprocessing, path: Path) -> None:
    """`images` (B, 3, H, W) to `logits` (B, K), batch size free, everything in one file."""
    example = torch.zeros(2, 3, preprocessing.height, preprocessing.width)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    if program is None:
        raise TireError("torch.onnx.export gave no program.")
    program.save(str(path), external_data=False)


def fit_temperature(logits_NK: Floats, y_N: Ints) -> float:
    """The temperature that minimises the log loss on these logits (Guo et al., ICML 2017), between 0.05 and 20."""

    def loss(log_t: float) -> float:
        scaled = logits_NK / np.exp(log_t)
        shifted = scaled - scaled.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y_N)), y_N]))

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return round(float(np.exp(found.x)), 4)


def check_parity(served_BK: Floats, trained_BK: Floats) -> None:
    difference = float(np.abs(served_BK - trained_BK).max())
    if not difference <= PARITY_MAX:
        raise TireError(
            f"The exported model differs from the trained one by {difference:.2e} in a probability; at most "
            f"{PARITY_MAX:.0e} is allowed. The bundle was not kept."
        )
