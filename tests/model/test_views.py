"""Images laid in several ways: in training over kept features, and in the answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model.conftest import draw
from tire_pipeline.bundle import Bundle, Session
from tire_pipeline.errors import InputError
from tire_pipeline.imaging import Preprocessing
from tire_pipeline.models import FLIPS, build, lay
from tire_pipeline.models.classifier import Classifier
from tire_pipeline.splits import Fold
from tire_pipeline.training.augment import normalise_
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.cross_validation import cross_validate
from tire_pipeline.training.examples import FromFeatures, make_source
from tire_pipeline.training.export import write_onnx
from tire_pipeline.training.loop import Examples, fit, predict_logits
from tire_pipeline.training.network import build_network

CPU = torch.device("cpu")
CONFIG = TrainingConfig.of(
    "cnn", image_height=32, image_width=32, threads=1, epochs=3, freeze_epochs=3, augmentation="flips", views=4
)


def test_the_views_are_the_flips_of_an_image() -> None:
    x_BCHW = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    flips = [x_BCHW, x_BCHW.flip(3), x_BCHW.flip(2), x_BCHW.flip(2, 3)]
    assert all(torch.equal(lay(x_BCHW, view), flips[view]) for view in range(FLIPS))


def test_whoever_answers_in_all_views_does_not_mind_how_an_image_is_flipped() -> None:
    x_BCHW = torch.randn(3, 3, 32, 32)
    model = build("cnn", num_classes=3, seed=0, views=FLIPS).eval()
    with torch.inference_mode():
        agreed = model(x_BCHW)
        assert agreed.numpy() == pytest.approx(model(x_BCHW.flip(2, 3)).numpy(), abs=1e-5)
        model.views = 1
        alone = torch.stack([model(lay(x_BCHW, view)).softmax(dim=1) for view in range(FLIPS)])
    assert not torch.allclose(alone[0], alone[1])
    assert agreed.softmax(dim=1).numpy() == pytest.approx(alone.mean(dim=0).numpy(), abs=1e-5)


def test_a_model_of_several_views_exports_as_it_answers(tmp_path: Path) -> None:
    model = build("cnn", num_classes=2, seed=0, views=FLIPS).eval()
    write_onnx(model, Preprocessing(32, 32), tmp_path / "model.onnx")
    session = Session(Bundle(tmp_path, ["a", "b"], None, Preprocessing(32, 32), "cnn", "d").save())
    x_BCHW = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x_BCHW)).softmax(dim=1).numpy()
    assert session.probabilities(x_BCHW) == pytest.approx(expected, abs=1e-5)


def test_a_step_sees_each_image_as_one_of_its_views_has_it(examples: Examples) -> None:
    model = build_network(CONFIG, num_classes=2)
    model.freeze(True)
    model.eval()
    source = make_source(examples, CONFIG, model, CPU)
    assert isinstance(source, FromFeatures)
    seen: set[int] = set()
    for rows, read_BF in source.batches(0, done=0):
        x_BCHW = torch.from_numpy(examples.images_NHWC[rows]).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            laid = [model.features(lay(normalise_(x_BCHW.clone()), view)) for view in range(FLIPS)]
        for number in range(len(rows)):
            fits = [view for view in range(FLIPS) if torch.allclose(laid[view][number], read_BF[number], atol=1e-4)]
            assert fits
            seen.update(fits)
    assert seen == set(range(FLIPS))


def test_an_epoch_that_is_gone_on_with_sees_what_was_left(examples: Examples) -> None:
    source = make_source(examples, CONFIG, _frozen(), CPU)
    whole, rest = list(source.batches(1, done=0)), list(source.batches(1, done=2))
    assert len(rest) == len(whole) - 2
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(whole[2:], rest, strict=True))


def test_validation_over_kept_features_is_that_of_the_model_that_is_kept(examples: Examples) -> None:
    fitted = fit(examples, CONFIG, on_epoch=lambda *_: None)
    logits_NK = predict_logits(fitted.model, examples.images_NHWC, examples.val)
    loss = torch.nn.functional.cross_entropy(logits_NK, torch.from_numpy(examples.labels_N[examples.val]))
    assert fitted.model.views == 4
    assert min(h["val/loss"] for h in fitted.history) == pytest.approx(float(loss), abs=1e-4)


def test_all_folds_share_what_a_frozen_backbone_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three folds ask for what is said of every image in four views; each is computed once."""
    images_NHWC, labels_N = draw(24, side=32)
    thirds = np.array_split(np.arange(24), 3)
    folds = [Fold(str(i), thirds[i], thirds[i - 1], thirds[i - 2]) for i in range(3)]
    measured, real = [], Classifier.features

    def count(model: Classifier, x_BCHW: torch.Tensor) -> torch.Tensor:
        if model.frozen and len(x_BCHW) > 1:  # one alone is looked at for the size of what it gives
            measured.append(len(x_BCHW))
        return real(model, x_BCHW)

    monkeypatch.setattr(Classifier, "features", count)
    p_NK = cross_validate(images_NHWC, labels_N, folds, CONFIG)
    assert sum(measured) == 24 * FLIPS
    assert p_NK.sum(axis=1) == pytest.approx(np.ones(24))


def _frozen() -> Classifier:
    model = build_network(CONFIG, num_classes=2)
    model.freeze(True)
    return model


@pytest.mark.parametrize("model_type", ["resnet18", "efficientnet_b0", "timm:mobilenetv2_050"])
def test_the_largest_activation_stands_beside_the_mean_one(model_type: str) -> None:
    x_BCHW = torch.rand(2, 3, 64, 64)
    both = build(model_type, num_classes=3, seed=0, pooling="mean_max").eval()
    mean = build(model_type, num_classes=3, seed=0).eval()
    with torch.inference_mode():
        features_BF = both.features(x_BCHW)
        assert both(x_BCHW).shape == (2, 3)
    assert features_BF.shape[1] == 2 * mean.features(x_BCHW).shape[1]


@pytest.mark.parametrize("model_type", ["convnext_tiny", "vgg19", "timm:vit_tiny_patch16_224"])
def test_a_network_that_does_not_end_with_an_average_says_so(model_type: str) -> None:
    with pytest.raises(InputError, match=r"mean_max|catavgmax"):
        build(model_type, num_classes=2, seed=0, pooling="mean_max")


def test_networks_from_scratch_pool_in_a_way_of_their_own() -> None:
    with pytest.raises(InputError, match="pooling is 'mean_max', but cnn pools in a way of its own"):
        replace(CONFIG, pooling="mean_max")
