"""Made-up answers of models."""

from __future__ import annotations

import numpy as np

from tire_pipeline.metrics import Costs, Scored


def scored(seed: int = 0, n: int = 200, num_classes: int = 2, costs: Costs | None = None) -> Scored:
    """Answers that are mostly right; class 1 is the positive one."""
    rng = np.random.default_rng(seed)
    y_N = rng.integers(0, num_classes, n)
    p_NK = rng.dirichlet(np.ones(num_classes), n).round(2) + np.eye(num_classes)[y_N] * 0.4
    p_NK /= p_NK.sum(axis=1, keepdims=True)
    return Scored(y_N, p_NK, p_NK.argmax(axis=1), (1,), costs or Costs())


def as_one(s: Scored) -> Scored:
    """The same answers to the question whether an image is positive, whatever else it is."""
    score = s.p_NK[:, list(s.positives)].sum(axis=1)
    truth, given = (np.isin(of, s.positives).astype(int) for of in (s.y_N, s.predicted_N))
    return Scored(truth, np.stack([1 - score, score], axis=1), given, (1,), s.costs)


def right_where(correct_N: np.ndarray, y_N: np.ndarray, costs: Costs | None = None) -> Scored:
    """A model of two classes that is right on just these images."""
    predicted_N = np.where(correct_N, y_N, 1 - y_N)
    return Scored(y_N, 0.1 + 0.8 * np.eye(2)[predicted_N], predicted_N, (1,), costs or Costs())
