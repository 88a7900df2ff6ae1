"""Networks whose first stages never learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tire_pipeline.errors import InputError
from tire_pipeline.models import build
from tire_pipeline.models.stages import run_until
from tire_pipeline.training import examples as sources
from tire_pipeline.training import loop
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.examples import Examples, FromFeatures, FromImages, make_source
from tire_pipeline.training.loop import fit, predict_logits
from tire_pipeline.training.network import build_network

CPU = torch.device("cpu")
CONFIG = TrainingConfig.of(
    "cnn", image_height=32, image_width=32, threads=1, epochs=2, frozen_until="2", augmentation="none", dropout=0.0
)
STAGES = [("resnet18", "layer3"), ("efficientnet_b0", "features.4"), ("timm:mobilenetv3_small_050", "blocks.2")]


@pytest.mark.parametrize(("model_type", "stage"), STAGES)
def test_a_network_in_two_parts_says_what_it_says_whole(model_type: str, stage: str) -> None:
    model = build(model_type, num_classes=3, seed=0, frozen_until=stage).eval()
    x_BCHW = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        kept_BCHW = model.still(x_BCHW)
        assert kept_BCHW.ndim == 4
        assert model.learning()(kept_BCHW).numpy() == pytest.approx(model(x_BCHW).numpy(), abs=1e-5)


@pytest.mark.parametrize(("model_type", "stage"), STAGES)
def test_only_what_comes_after_the_stage_learns(model_type: str, stage: str) -> None:
    model = build(model_type, num_classes=3, seed=0, frozen_until=stage).train()
    before = {name: t.clone() for name, t in model.backbone.state_dict().items()}
    rate = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.learning()(model.still(torch.rand(4, 3, 64, 64))).sum().backward()
    rate.step()
    changed = {name for name, t in model.backbone.state_dict().items() if not torch.equal(t, before[name])}
    assert changed
    at_stage = [n for n in before if n.startswith(f"{stage}.")]
    assert at_stage
    names = list(before)
    assert all(names.index(name) > names.index(at_stage[-1]) for name in changed)


@pytest.mark.parametrize("stage", ["layer9", "layer3.0.conv1"])
def test_a_stage_that_is_none_is_refused_with_those_that_are(stage: str) -> None:
    with pytest.raises(InputError, match=f"cut after frozen_until '{stage}'.*layer1, layer2, layer3"):
        build("resnet18", num_classes=2, seed=0, size=(64, 64), frozen_until=stage)


def test_what_is_kept_teaches_what_images_teach(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_network(CONFIG, num_classes=2)
    assert isinstance(make_source(examples, CONFIG, model, CPU), FromFeatures)
    kept = fit(examples, CONFIG, on_epoch=lambda *_: None)
    monkeypatch.setattr(loop, "make_source", FromImages)
    looked_at = fit(examples, CONFIG, on_epoch=lambda *_: None)
    for a, b in zip(kept.history, looked_at.history, strict=True):
        assert a["val/loss"] == pytest.approx(b["val/loss"], abs=1e-4)
    first = run_until(kept.model.backbone, "2", torch.ones(1, 3, 32, 32))
    assert torch.equal(first, run_until(model.eval().backbone, "2", torch.ones(1, 3, 32, 32)))


def test_the_head_learns_alone_at_first(examples: Examples) -> None:
    config = replace(CONFIG, epochs=3, freeze_epochs=1, augmentation="flips", views=2)
    fitted = fit(examples, config, on_epoch=lambda *_: None)
    logits_NK = predict_logits(fitted.model, examples.images_NHWC, examples.val)
    loss = torch.nn.functional.cross_entropy(logits_NK, torch.from_numpy(examples.labels_N[examples.val]))
    assert min(h["val/loss"] for h in fitted.history) == pytest.approx(float(loss), abs=1e-4)


def test_what_would_not_fit_into_memory_is_not_kept(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "KEPT_MAX_BYTES", 1000)
    assert isinstance(make_source(examples, CONFIG, build_network(CONFIG, num_classes=2), CPU), FromImages)
