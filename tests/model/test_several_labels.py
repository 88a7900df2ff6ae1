"""One network with a head for each label: bars that lie or stand, on light or dark noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tire_pipeline.bundle import Bundle, Session
from tire_pipeline.evaluation.by_label import by_label, judged, metrics_of
from tire_pipeline.imaging import normalise
from tire_pipeline.metrics import Scored, point
from tire_pipeline.models import build
from tire_pipeline.several_labels import membership
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.export import export
from tire_pipeline.training.loop import Examples, fit, predict_logits

CLASSES = ["bar=lies;light=dark", "bar=lies;light=bright", "bar=stands;light=dark", "bar=stands;light=bright"]
CONFIG = TrainingConfig.of(
    "cnn", epochs=10, batch_size=16, learning_rate=3e-3, image_height=32, image_width=32, threads=1, augmentation="none"
)


def draw_combined(num_images: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels_N = np.arange(num_images) % 4
    images_NHWC = rng.normal(110, 25, (num_images, 32, 32, 3)).clip(0, 255).astype(np.uint8)
    for image_HWC, label in zip(images_NHWC, labels_N, strict=True):
        at = int(rng.integers(6, 22))
        bar = (slice(at, at + 4), slice(4, 28)) if label < 2 else (slice(4, 28), slice(at, at + 4))
        image_HWC[bar] = 240 if label % 2 else 10
    return images_NHWC, labels_N


def test_a_combinations_probability_is_the_product_of_its_values() -> None:
    model = build("tiny_vgg", num_classes=4, seed=0, membership_KV=membership(CLASSES)).eval()
    assert [tuple(p.shape) for p in model.head.parameters()] == [(4, 128), (4,)]
    with torch.inference_mode():
        x_BCHW = torch.rand(5, 3, 32, 32)
        heads_BV, p_BK = model.head[0](model.features(x_BCHW)), model(x_BCHW).softmax(dim=1)
    bar_B2, light_B2 = heads_BV[:, :2].softmax(dim=1), heads_BV[:, 2:].softmax(dim=1)  # values in alphabetical order
    expected = torch.stack([bar_B2[:, b] * light_B2[:, i] for b, i in ((0, 1), (0, 0), (1, 1), (1, 0))], dim=1)
    assert torch.allclose(p_BK, expected, atol=1e-6)


def test_the_loss_of_combinations_is_the_sum_of_the_heads_losses() -> None:
    model = build("tiny_vgg", num_classes=4, seed=0, membership_KV=membership(CLASSES)).eval()
    x_BCHW, y_B = torch.rand(8, 3, 32, 32), torch.arange(8) % 4
    heads_BV = model.head[0](model.features(x_BCHW))
    cross_entropy = torch.nn.functional.cross_entropy
    both = cross_entropy(heads_BV[:, :2], y_B // 2) + cross_entropy(heads_BV[:, 2:], 1 - y_B % 2)
    assert cross_entropy(model(x_BCHW), y_B).item() == pytest.approx(both.item(), rel=1e-5)


def test_a_network_with_several_heads_learns_exports_and_is_measured_by_label(tmp_path: Path) -> None:
    images_NHWC, labels_N = draw_combined(128)
    rows, combined = np.arange(128), membership(CLASSES)
    examples = Examples(images_NHWC, labels_N, rows[:96], rows[96:], 4, membership_KV=combined)
    fitted = fit(examples, CONFIG, on_epoch=lambda *_: None)
    made = export(
        fitted.model,
        *(images_NHWC, labels_N, examples.val),
        train=examples.train,
        classes=CLASSES,
        positive_class="lies",
        config=CONFIG,
        snapshot_digest="d",
        folder=tmp_path,
    )
    bundle = Bundle.load(made.path)
    x_BCHW = normalise(images_NHWC[examples.val], bundle.preprocessing)
    served_NK = Session(bundle).logits(x_BCHW)
    assert np.abs(served_NK - predict_logits(fitted.model, images_NHWC, examples.val).numpy()).max() < 1e-3
    p_NK = Session(bundle).probabilities(x_BCHW)
    predicted_N = np.array([CLASSES.index(bundle.decide(p_K)[0]) for p_K in p_NK])
    scored = Scored(labels_N[examples.val], p_NK, predicted_N, bundle.positives)
    metrics = metrics_of(scored, examples.val, judged(scored, CLASSES, positive_class="lies"))
    assert metrics["accuracy"] >= 0.9
    assert metrics["recall"] == metrics["bar/recall"]
    by_threshold = p_NK[:, :2].sum(axis=1) >= bundle.threshold
    assert ((predicted_N < 2) == by_threshold).all()
    assert np.mean(by_threshold == (labels_N[examples.val] < 2)) >= 0.9
    assert {"bar/accuracy", "bar/recall", "bar/recall_low", "light/balanced_accuracy_high"} <= set(metrics)
    assert "light/recall" not in metrics  # nothing there is called like the positive class
    assert metrics["accuracy"] <= min(metrics["bar/accuracy"], metrics["light/accuracy"])


def test_each_label_has_the_probabilities_of_its_values_added_up() -> None:
    p_NK = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.3, 0.1, 0.1]])
    scored = Scored(np.array([3, 2]), p_NK, p_NK.argmax(axis=1))
    found = by_label(scored, CLASSES, positive_class="lies")
    assert found["bar"].p_NK == pytest.approx(np.array([[0.3, 0.7], [0.8, 0.2]]))
    assert found["light"].p_NK == pytest.approx(np.array([[0.6, 0.4], [0.4, 0.6]]))  # bright, dark
    assert found["bar"].y_N.tolist() == [1, 1] and found["bar"].positives == (0,)
    assert found["light"].y_N.tolist() == [0, 1] and found["light"].positives == ()
    assert point(found["bar"])["accuracy"] == 0.5
    as_served = replace(scored, predicted_N=np.array([0, 3]))  # a threshold may name another class than the likeliest
    assert by_label(as_served, CLASSES, positive_class=None)["bar"].predicted_N.tolist() == [0, 1]


def test_plain_classes_have_no_figures_beside_their_own() -> None:
    scored = Scored(np.array([0, 1]), np.eye(2), np.array([0, 1]), (1,))
    assert by_label(scored, ["bad", "good"], positive_class="bad") == {}
    (only,) = judged(scored, ["good", "bad"], positive_class="good").values()
    assert (only.positives, scored.positives) == ((0,), (1,))
    assert judged(scored, ["bad", "good"], positive_class=None)[""].positives == ()
