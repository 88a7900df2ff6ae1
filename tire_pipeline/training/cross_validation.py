"""Cross-validation: honest figures where a test split would hold too few images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tire_pipeline.datasets.cache import Images
from tire_pipeline.metrics import Floats, Ints
from tire_pipeline.splits import Fold
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.examples import KeptFeatures
from tire_pipeline.training.loop import Examples, fit, predict_logits

log = logging.getLogger(__name__)


def cross_validate(
    images_NHWC: Images,
    labels_N: Ints,
    folds: Sequence[Fold],
    config: TrainingConfig,
    *,
    membership_KV: Sequence[Sequence[bool]] | None = None,
    weights: Path | None = None,
    on_fold: Callable[[int], None] = lambda _: None,
) -> Floats:
    """Probabilities (N, K) of every image, each by a model that was trained and chosen without its fold.

    `labels_N` are 0..K-1; `membership_KV` as of `Examples`; `weights` is the file of the configuration's pretrained
    weights; `on_fold` is told how many folds are done.
    """
    num_classes = int(labels_N.max()) + 1
    p_NK = np.zeros((len(labels_N), num_classes))
    kept = KeptFeatures()  # what does not learn is the same in every fold
    for number, fold in enumerate(folds, start=1):
        examples = Examples(
            images_NHWC, labels_N, fold.train, fold.val, num_classes, membership_KV=membership_KV, kept=kept
        )
        fitted = fit(examples, config, weights=weights, on_epoch=lambda *_: None)
        p_NK[fold.test] = predict_logits(fitted.model, images_NHWC, fold.test).softmax(dim=1).numpy()
        right = (p_NK[fold.test].argmax(axis=1) == labels_N[fold.test]).mean()
        log.info("fold %s (%d of %d): %.3f of %d right", fold.name, number, len(folds), right, len(fold.test))
        on_fold(number)
    return p_NK
