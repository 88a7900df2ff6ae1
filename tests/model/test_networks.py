"""What every network is: two parts, weights by seed, any batch, and the same answers in onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model.conftest import draw
from tire_pipeline.bundle import Bundle, Session
from tire_pipeline.errors import InputError
from tire_pipeline.imaging import Preprocessing
from tire_pipeline.models import BUILDERS, Head, build
from tire_pipeline.models.families import timm
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.export import export, write_onnx
from tire_pipeline.training.loop import Examples, fit
from tire_pipeline.training.recipes import RECIPES

FEW = ["cnn", "tiny_vgg", "base_cnn", "resnet18", "efficientnet_b0", "timm:mobilenetv3_small_050"]
TRAINED = ["base_cnn", "efficientnet_b0", "timm:vit_tiny_patch16_224"]
ALL = sorted({*RECIPES, *TRAINED})


def test_every_builder_has_a_recipe() -> None:
    assert set(BUILDERS) == set(RECIPES)


@pytest.mark.parametrize("model_type", FEW)
def test_every_network_takes_any_batch_and_gives_a_logit_a_class(model_type: str) -> None:
    model = build(model_type, num_classes=4, seed=0).eval()
    with torch.inference_mode():
        for batch in (1, 3):
            x_BCHW = torch.rand(batch, 3, 64, 96)
            features_BF = model.features(x_BCHW)
            assert features_BF.ndim == 2
            assert model(x_BCHW).shape == (batch, 4)
            assert torch.equal(model(x_BCHW), model.head(features_BF))


@pytest.mark.parametrize("model_type", FEW)
def test_a_seed_gives_the_same_weights_and_leaves_the_worlds_dice_alone(model_type: str) -> None:
    before = torch.random.get_rng_state()
    first, second, other = (build(model_type, num_classes=2, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("model_type", FEW[:4])
def test_every_network_exports_with_a_free_batch_size(model_type: str, tmp_path: Path) -> None:
    model = build(model_type, num_classes=3, seed=0).eval()
    write_onnx(model, Preprocessing(64, 96), tmp_path / "model.onnx")
    made = Bundle(tmp_path, ["a", "b", "c"], None, Preprocessing(64, 96), model_type, "d").save()
    x_BCHW = np.random.default_rng(0).normal(size=(3, 3, 64, 96)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x_BCHW)).numpy()
    session = Session(made)
    assert session.logits(x_BCHW) == pytest.approx(expected, abs=1e-4)
    assert session.logits(x_BCHW[:1]) == pytest.approx(expected[:1], abs=1e-4)


@pytest.mark.parametrize("model_type", [n if n in TRAINED else pytest.param(n, marks=pytest.mark.soak) for n in ALL])
def test_every_network_trains_and_its_export_answers_as_it_does(model_type: str, tmp_path: Path) -> None:
    images_NHWC, labels_N = draw(8, side=64)
    rows = np.arange(8)
    config = TrainingConfig.of(model_type, epochs=1, batch_size=4, image_height=64, image_width=64, threads=1)
    fitted = fit(Examples(images_NHWC, labels_N, rows, rows, 2), config, on_epoch=lambda *_: None)
    before = build(model_type, num_classes=2, seed=config.seed, size=(64, 64)).state_dict()
    changed = [k for k, v in fitted.model.state_dict().items() if not torch.equal(v, before[k])]
    assert any(k.startswith("backbone.") for k in changed) and any(k.startswith("head.") for k in changed)
    made = export(  # raises where the answers differ by 1e-4
        fitted.model,
        *(images_NHWC, labels_N, rows),
        train=rows,
        classes=["good", "bar"],
        positive_class="bar",
        config=config,
        snapshot_digest="d",
        folder=tmp_path,
    )
    assert Bundle.load(made.path).candidate == model_type


def test_an_mlp_has_layer_norm_and_dropout_of_the_strength_asked_for() -> None:
    model = build("tiny_vgg", num_classes=3, seed=0, head=Head("mlp", 0.4))
    assert [type(m).__name__ for m in model.head] == ["LayerNorm", "Dropout", "Linear", "GELU", "Dropout", "Linear"]
    assert [m.p for m in model.head if isinstance(m, torch.nn.Dropout)] == [0.4, 0.4]
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_a_linear_head_has_the_dropout_of_its_architecture_unless_another_is_asked_for() -> None:
    def dropout(model_type: str, asked: float | None = None) -> list[float]:
        head = build(model_type, num_classes=2, seed=0, head=Head(dropout=asked)).head
        return [m.p for m in head if isinstance(m, torch.nn.Dropout)]

    assert dropout("cnn") == [0.2]
    assert dropout("efficientnet_b0") == [0.2]
    assert dropout("resnet18") == []
    assert dropout("resnet18", 0.5) == [0.5]
    assert dropout("cnn", 0.0) == []


def test_a_frozen_backbone_says_the_same_of_an_image_in_training_and_does_not_learn() -> None:
    model = build("efficientnet_b0", num_classes=2, seed=0)  # batch norm, and stochastic depth
    model.freeze()
    model.train()
    x_BCHW = torch.rand(4, 3, 64, 64)
    assert torch.equal(model.features(x_BCHW), model.features(x_BCHW))
    model(x_BCHW).sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.head.parameters())
    model.freeze(False)
    assert not torch.equal(model.features(x_BCHW), model.features(x_BCHW))
    assert all(p.requires_grad for p in model.parameters())


def test_fixed_norms_keep_their_statistics_while_the_filters_learn() -> None:
    for fixed in (True, False):
        model = build("resnet18", num_classes=2, seed=0, fixed_norms=fixed).train()
        before = {k: v.clone() for k, v in model.state_dict().items() if k.endswith("running_mean")}
        model(torch.rand(4, 3, 64, 64)).sum().backward()
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if k in before) == fixed
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("timm:resnet19", r"has no network 'resnet19'; did you mean .*'timm:resnet18'"),
        ("timm:qqqq", r"has no network 'qqqq'; see timm.list_models"),
        ("timm:resnet18.b9_in1k", "has no weights 'b9_in1k' of resnet18; it has: a1_in1k, a2_in1k"),
    ],
)
def test_a_name_that_timm_does_not_know_is_refused_with_those_that_are_close(model_type: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        build(model_type, num_classes=2, seed=0)


def test_a_size_or_an_argument_that_a_network_does_not_take_is_refused_with_the_fix() -> None:
    with pytest.raises(InputError, match=r"xcit_nano_12_p16_224 does not take images of 100 × 100 .*such as 224"):
        build("timm:xcit_nano_12_p16_224", num_classes=2, seed=0, size=(100, 100))
    with pytest.raises(InputError, match=r"or not with \{'nonsense': 1\}"):
        timm("mobilenetv3_small_050", 2, size=(64, 64), arguments={"nonsense": 1})
