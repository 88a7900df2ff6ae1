from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.model.conftest import draw
from tests.unit.fakes import object_store
from tire_pipeline.bundle import Bundle, Session
from tire_pipeline.datasets.cache import ImageCache
from tire_pipeline.datasets.snapshots import build as build_snapshot
from tire_pipeline.errors import InputError, TireError
from tire_pipeline.evaluation.answers import answer
from tire_pipeline.imaging import encode_png, normalise
from tire_pipeline.metrics import Ints
from tire_pipeline.training import loop
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.examples import FromFeatures, FromImages, make_source, split_batches
from tire_pipeline.training.export import check_parity, export
from tire_pipeline.training.loop import EpochMetrics, Examples, Fitted, fit, predict_logits
from tire_pipeline.training.network import build_network

CPU = torch.device("cpu")
FIXED = {"learning_rate": 3e-3, "weight_decay": 0.02, "image_height": 32, "image_width": 32, "threads": 1}
CONFIG = TrainingConfig.of("cnn", **FIXED, epochs=8, batch_size=16)


def train(examples: Examples, config: TrainingConfig = CONFIG) -> Fitted:
    return fit(examples, config, on_epoch=lambda *_: None)


def write(fitted: Fitted, examples: Examples, folder: Path, config: TrainingConfig = CONFIG) -> Bundle:
    folder.mkdir()
    return export(
        fitted.model,
        examples.images_NHWC,
        examples.labels_N,
        examples.val,
        train=examples.train,
        classes=["good", "bar"],
        positive_class="bar",
        config=config,
        snapshot_digest="d",
        folder=folder,
    )


@pytest.fixture(scope="module")
def fitted(examples: Examples) -> Fitted:
    return train(examples)


@pytest.fixture(scope="module")
def bundle(fitted: Fitted, examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write(fitted, examples, tmp_path_factory.mktemp("bundles") / "a")


def logits(model: torch.nn.Module, examples: Examples, rows: Ints) -> np.ndarray:
    return predict_logits(model, examples.images_NHWC, rows, CPU).numpy()


@pytest.mark.parametrize("model_type", ["cnn", "tiny_vgg", "resnet18"])
def test_a_tiny_set_is_overfitted(model_type: str) -> None:
    images_NHWC, labels_N = draw(12, side=32)
    labels_N = np.random.default_rng(0).permutation(labels_N)  # nothing but memory helps
    rows = np.arange(12)
    config = TrainingConfig.of(model_type, **FIXED, epochs=30, batch_size=6, augmentation="none", label_smoothing=0.0)
    done = train(Examples(images_NHWC, labels_N, rows, rows, 2), config)
    assert min(h["train/loss"] for h in done.history) < 0.1
    assert max(h["val/accuracy"] for h in done.history) == 1.0


def test_training_learns_what_the_classes_differ_in(fitted: Fitted, examples: Examples) -> None:
    assert fitted.history[fitted.best_epoch]["val/balanced_accuracy"] >= 0.9
    assert set(fitted.history[0]) >= {"train/loss", "val/loss", "val/balanced_accuracy", "train/images_per_s"}


def test_the_epoch_with_the_lowest_validation_loss_is_the_one_kept(fitted: Fitted, examples: Examples) -> None:
    losses = [h["val/loss"] for h in fitted.history]
    assert fitted.best_epoch == int(np.argmin(losses))
    z_NK = logits(fitted.model, examples, examples.val)
    log_p_NK = z_NK - np.log(np.exp(z_NK).sum(axis=1, keepdims=True))
    kept = -log_p_NK[np.arange(len(z_NK)), examples.labels_N[examples.val]].mean()
    assert kept == pytest.approx(min(losses), abs=1e-5)


def test_a_later_epoch_that_is_worse_does_not_replace_the_best(examples: Examples, monkeypatch) -> None:
    losses, weights = iter([0.3, 0.1, 0.9]), []

    def validate(model: torch.nn.Module, *_: object) -> EpochMetrics:
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"val/loss": next(losses)}

    monkeypatch.setattr(loop, "_validate", validate)
    done = train(examples, replace(CONFIG, epochs=3))
    assert done.best_epoch == 1
    kept = done.model.state_dict()
    assert all(torch.equal(kept[k], weights[1][k]) for k in kept)
    assert not all(torch.equal(kept[k], weights[2][k]) for k in kept)


def test_the_same_seed_gives_the_same_bundle_byte_for_byte(bundle: Bundle, examples: Examples, tmp_path: Path) -> None:
    torch.rand(7)  # whatever the process drew before
    again = write(train(examples), examples, tmp_path / "b")
    assert again.digest == bundle.digest
    other = train(examples, replace(CONFIG, seed=1))
    assert write(other, examples, tmp_path / "c").digest != bundle.digest


def test_the_exported_model_answers_as_the_trained_one_for_any_batch(
    bundle: Bundle, fitted: Fitted, examples: Examples
) -> None:
    session = Session(Bundle.load(bundle.path))
    for batch in (1, 3, 32):
        rows = examples.val[:batch]
        x_BCHW = normalise(examples.images_NHWC[rows], bundle.preprocessing)
        assert np.abs(session.logits(x_BCHW) - logits(fitted.model, examples, rows)).max() < 1e-3
        assert session.probabilities(x_BCHW).sum(axis=1) == pytest.approx(np.ones(batch), abs=1e-5)


def test_golden_images_are_answered_as_the_bundle_says(bundle: Bundle) -> None:
    golden = bundle.golden_images()
    assert len(golden) == 8
    session = Session(bundle)
    for data, expected in golden:
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        got = session.probabilities(normalise(pixels[None], bundle.preprocessing))[0]
        assert got == pytest.approx(expected, abs=1e-5)


def test_nothing_pickled_is_in_a_bundle(bundle: Bundle) -> None:
    names = {p.suffix for p in bundle.path.rglob("*") if p.is_file()}
    assert names == {".json", ".onnx", ".safetensors", ".png"}


def test_a_difference_between_both_models_stops_the_export() -> None:
    p_BK = np.array([[0.5, 0.5]], np.float32)
    check_parity(p_BK, p_BK + 9e-5)
    for bad in (p_BK + 2e-4, p_BK * np.nan):
        with pytest.raises(TireError, match=r"differs from the trained one by .*The bundle was not kept"):
            check_parity(bad, p_BK)


def test_a_loss_that_is_no_number_stops_the_training_with_the_option_to_change(examples: Examples) -> None:
    wild = replace(CONFIG, optimizer_type="sgd", learning_rate=10.0, augmentation="none", epochs=50, weight_decay=1.0)
    broken = replace(examples, images_NHWC=_Broken(examples.images_NHWC))
    with pytest.raises(TireError, match=r"The loss of cnn became nan .* Lower --learning-rate \(it is 10\)"):
        train(broken, wild)


def test_a_validation_that_never_gave_a_number_stops_the_training(examples: Examples, monkeypatch) -> None:
    monkeypatch.setattr(loop, "_validate", lambda *_: {"val/loss": float("nan")})
    with pytest.raises(TireError, match="validation loss of cnn was never a number in 1 epochs"):
        train(examples, replace(CONFIG, epochs=1))


@pytest.mark.parametrize("num_images", [3, 5, 17, 33])
def test_no_batch_has_one_image_which_batch_norm_cannot_take(num_images: int) -> None:
    for size in (2, 3, 16, 32):
        parts = list(split_batches(np.arange(num_images), size))
        assert np.concatenate(parts).tolist() == list(range(num_images))
        assert min(map(len, parts)) >= 2
        assert max(map(len, parts)) <= max(size, 3)


def test_an_odd_number_of_images_trains_in_pairs() -> None:
    images_NHWC, labels_N = draw(9)
    rows = np.arange(9)
    config = TrainingConfig.of("resnet18", **FIXED, epochs=1, batch_size=2)
    assert len(train(Examples(images_NHWC, labels_N, rows, rows, 2), config).history) == 1


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_every_optimizer_and_loss_lowers_the_loss(examples: Examples, optimizer: str, loss: str) -> None:
    rate = 0.05 if optimizer == "sgd" else 3e-3
    config = replace(CONFIG, epochs=3, optimizer_type=optimizer, loss=loss, learning_rate=rate)
    history = train(examples, config).history
    assert history[-1]["train/loss"] < history[0]["train/loss"]


def test_every_epoch_is_told_as_it_ends(examples: Examples) -> None:
    told: list[tuple[int, EpochMetrics]] = []
    done = fit(examples, replace(CONFIG, epochs=2), on_epoch=lambda e, m: told.append((e, m)))
    assert [e for e, _ in told] == [0, 1]
    assert [m for _, m in told] == done.history


def test_a_bundle_answers_on_rows_of_a_snapshot(bundle: Bundle, tmp_path: Path) -> None:
    store, _ = object_store()
    images_NHWC, labels_N = draw(12, seed=9)
    for i, pixels in enumerate(images_NHWC):
        store.put(f"datasets/v1/{['good', 'bar'][labels_N[i]]}/{i:02d}.png", encode_png(pixels))
    store.put("datasets/v1/_READY", b"")
    usable = build_snapshot(store, "v1").usable
    wanted = np.arange(12) % 3 > 0
    answers = answer(store, bundle, usable, wanted, cache=ImageCache(tmp_path), name="d")
    assert answers.rows["path"].tolist() == usable[wanted]["path"].tolist()
    assert np.mean(answers.rows["predicted"] == answers.rows["label"]) >= 0.8
    assert answers.scored.positives == (1,)
    assert answers.rows[["p_good", "p_bar"]].sum(axis=1).to_numpy() == pytest.approx(np.ones(8), abs=1e-5)
    assert (answers.scored.y_N == pd.Series(usable[wanted]["label"]).map({"good": 0, "bar": 1}).to_numpy()).all()
    with pytest.raises(InputError, match="knows good, bar, but the images are also labelled cut"):
        answer(store, bundle, usable.assign(label="cut"), wanted, cache=ImageCache(tmp_path), name="d")


def test_the_bundles_record_says_all_that_serving_needs(bundle: Bundle) -> None:
    record = json.loads((bundle.path / "bundle.json").read_text())
    assert record["classes"] == ["good", "bar"]
    assert (record["positive_class"], record["candidate"], record["snapshot_digest"]) == ("bar", "cnn", "d")
    assert 0.05 <= record["temperature"] <= 20
    low, high = record["review_band"]
    assert low < record["threshold"] < high


class _Broken(np.ndarray):
    """Images of which every batch comes out as no number."""

    def __new__(cls, images_NHWC: np.ndarray) -> _Broken:
        return (images_NHWC.astype(np.float32) * np.nan).view(cls)


@pytest.mark.parametrize("augmentation", ["none", "light"])
def test_a_frozen_backbone_stays_as_it_is_and_then_learns_at_a_lower_rate(
    examples: Examples, augmentation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[dict[str, torch.Tensor], float]] = []
    heads: list[dict[str, torch.Tensor]] = []
    real = loop.Trainer._epoch

    def watch(trainer: loop.Trainer) -> EpochMetrics:
        metrics = real(trainer)
        backbone = {k: v.clone() for k, v in trainer.model.backbone.state_dict().items()}
        heads.append({k: v.clone() for k, v in trainer.model.head.state_dict().items()})
        seen.append((backbone, max(g["max_lr"] for g in trainer.state.optimizer.param_groups)))
        return metrics

    monkeypatch.setattr(loop.Trainer, "_epoch", watch)
    config = replace(CONFIG, epochs=4, freeze_epochs=2, augmentation=augmentation)
    done = train(examples, config)
    before = build_network(config, num_classes=2).backbone.state_dict()
    assert all(torch.equal(seen[1][0][k], before[k]) for k in before)
    assert not all(torch.equal(seen[2][0][k], before[k]) for k in before)
    assert [rate for _, rate in seen] == pytest.approx([3e-3, 3e-3, 3e-4, 3e-4])
    assert not all(torch.equal(heads[0][k], heads[1][k]) for k in heads[0])
    assert len(done.history) == 4


def test_features_of_a_frozen_backbone_are_what_its_images_give(examples: Examples) -> None:
    """The head learns the same from features that were kept and from images that are looked at again and again."""
    config = replace(CONFIG, epochs=2, freeze_epochs=2, augmentation="none", dropout=0.0)
    model = build_network(config, num_classes=2)
    model.freeze(True)
    assert isinstance(make_source(examples, config, model, CPU), FromFeatures)
    kept = train(examples, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_source", FromImages)
        looked_at = train(examples, config)
    for a, b in zip(kept.history, looked_at.history, strict=True):
        assert {k: v for k, v in a.items() if "per_s" not in k} == pytest.approx(
            {k: v for k, v in b.items() if "per_s" not in k}, abs=1e-5
        )


def test_training_stops_when_it_got_no_better_for_as_long_as_it_has_patience(
    examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter([0.5, 0.7, 0.6, 0.7, 0.9, 0.9])
    monkeypatch.setattr(loop, "_validate", lambda *_: {"val/loss": 1.0, "val/accuracy": next(accuracies)})
    done = train(examples, replace(CONFIG, epochs=6, monitor="accuracy", patience=2))
    assert (len(done.history), done.best_epoch) == (4, 1)
