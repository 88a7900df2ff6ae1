"""Pretrained weights, from where they lie to the bundle: files in folders, in S3 and in a library's own cache."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision import models as torchvision_models

from tests.model.conftest import draw
from tests.unit.fakes import fake_services, object_store
from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.imaging import Preprocessing, decode, prepare
from tire_pipeline.models import WeightSource
from tire_pipeline.refs import SnapshotRef, SplitRef, digest_of_file
from tire_pipeline.steps import pretrained
from tire_pipeline.stores.objects import ObjectStore
from tire_pipeline.training.cache_key import cache_key
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.export import export
from tire_pipeline.training.loop import Examples, fit, predict_logits
from tire_pipeline.training.network import build_network

HALF = [0.5, 0.5, 0.5]
MOBILENET = Path(__file__).parents[3] / "shared/data/weights/mobilenetv2_100_same.fp16.safetensors"


def write_manifest(folder: Path, **fields: Any) -> None:
    (file,) = [p for p in folder.iterdir() if p.name != "weights.json"]
    entry = {"file": file.name, "sha256": digest_of_file(file), "licence": "mit", **fields}
    (folder / "weights.json").write_text(json.dumps({"files": [entry]}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with half-precision weights of a resnet18 for 1,000 classes, and a manifest."""
    made = tmp_path / "weights"
    made.mkdir()
    torch.manual_seed(7)
    state = {k: v.half() if v.is_floating_point() else v for k, v in torchvision_models.resnet18().state_dict().items()}
    save_file(state, made / "resnet18.safetensors")
    write_manifest(made, architecture="resnet18", mean=HALF, std=HALF)
    return made


def source(where: Path | str, cache: Path, *, store: ObjectStore | None = None, allow: bool = False) -> WeightSource:
    return WeightSource(str(where), cache, lambda _: store or object_store()[0], allow_noncommercial=allow)


def resolve(where: Path, tmp_path: Path, weights: str = "imagenet", **options: Any) -> tuple[TrainingConfig, Path]:
    weight_source = source(where, tmp_path / "cache")
    ref = weight_source.resolve(weights, model_type="resnet18")
    size = {"image_height": 32, "image_width": 32, "threads": 1}
    return TrainingConfig.of("resnet18", weights=weights, pretrained=ref, **size, **options), weight_source.fetch(
        ref
    ).path


def test_the_backbone_has_the_weights_of_the_file_and_the_head_is_new(folder: Path, tmp_path: Path) -> None:
    config, path = resolve(folder, tmp_path)
    model = build_network(config, num_classes=3, weights=path)
    torch.manual_seed(7)
    expected = torchvision_models.resnet18().conv1.weight.half().float()
    assert torch.equal(model.backbone.conv1.weight, expected)
    assert model.head[-1].out_features == 3
    assert (model.mean, model.std) == (tuple(HALF), tuple(HALF))


def test_the_normalisation_of_the_weights_reaches_training_and_the_bundle(folder: Path, tmp_path: Path) -> None:
    config, path = resolve(folder, tmp_path, epochs=1, batch_size=4, resize="crop")
    images_NHWC, labels_N = draw(8)
    rows = np.arange(8)
    fitted = fit(Examples(images_NHWC, labels_N, rows, rows, 2), config, weights=path, on_epoch=lambda *_: None)
    x_BCHW = torch.from_numpy((images_NHWC / 255 - 0.5) / 0.5).float().permute(0, 3, 1, 2)
    with torch.inference_mode():
        assert predict_logits(fitted.model, images_NHWC, rows).numpy() == pytest.approx(
            fitted.model(x_BCHW).numpy(), abs=1e-4
        )
    (tmp_path / "bundle").mkdir()
    made = export(
        fitted.model,
        *(images_NHWC, labels_N, rows),
        train=rows,
        classes=["good", "bar"],
        positive_class="bar",
        config=config,
        snapshot_digest="d",
        folder=tmp_path / "bundle",
    )
    spec = Bundle.load(made.path).preprocessing
    assert (spec.mean, spec.std, spec.resize) == (tuple(HALF), tuple(HALF), "crop")


def test_weights_of_another_network_are_refused(folder: Path, tmp_path: Path) -> None:
    config, path = resolve(folder, tmp_path)
    for other in ("resnet34", "resnet50", "vgg19"):
        with pytest.raises(InputError, match=rf"resnet18.safetensors does not fit {other} at 32 × 32 pixels: \d+ of"):
            build_network(replace(config, model_type=other), num_classes=2, weights=path)


def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path) -> None:
    config, path = resolve(folder, tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"weights resnet18.safetensors have the sha256 .*… is stated"):
        build_network(config, num_classes=2, weights=path)
    path.unlink()
    with pytest.raises(InputError, match=r"resnet18.safetensors are not at"):
        build_network(config, num_classes=2, weights=path)


class Evil:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("pwned",))


def test_pytorchs_own_format_is_read_as_tensors_and_nothing_in_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "weights"
    folder.mkdir()
    state = torchvision_models.resnet18().state_dict()
    torch.save({"state_dict": state}, folder / "r.pth")
    write_manifest(folder)
    config, path = resolve(folder, tmp_path, "r.pth")
    assert torch.equal(build_network(config, num_classes=2, weights=path).backbone.conv1.weight, state["conv1.weight"])
    torch.save({"state_dict": state, "x": Evil()}, folder / "r.pth")
    write_manifest(folder)
    config, path = resolve(folder, tmp_path, "r.pth")
    with pytest.raises(InputError, match="holds no plain tensors"):
        build_network(config, num_classes=2, weights=path)
    assert not (tmp_path / "pwned").exists()


def test_a_licence_that_forbids_commercial_use_is_refused_unless_it_is_allowed(folder: Path, tmp_path: Path) -> None:
    write_manifest(folder, architecture="resnet18", licence="cc-by-nc-4.0")
    with pytest.raises(InputError, match=r"cc-by-nc-4.0, forbids commercial use.*TIRE_ALLOW_NONCOMMERCIAL_WEIGHTS"):
        source(folder, tmp_path).resolve("imagenet", model_type="resnet18")
    ref = source(folder, tmp_path, allow=True).resolve("imagenet", model_type="resnet18")
    assert ref.licence == "cc-by-nc-4.0"


def test_weights_in_s3_are_copied_once_and_checked(folder: Path, tmp_path: Path) -> None:
    store, client = object_store()
    for path in folder.iterdir():
        store.put(f"models/{path.name}", path.read_bytes())
    there = source("s3://tire/models/", tmp_path / "cache", store=store)
    ref = there.resolve("imagenet", model_type="resnet18")
    assert there.fetch(ref).read().keys() == there.fetch(ref).read().keys()
    assert client.read.count("models/resnet18.safetensors") == 1
    store.put("models/resnet18.safetensors", b"other")
    with pytest.raises(InputError, match="have the sha256"):
        source("s3://tire/models", tmp_path / "elsewhere", store=store).fetch(ref)
    assert not list((tmp_path / "elsewhere").glob("*.safetensors"))


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither weights.json nor SHA256SUMS"):
        source(tmp_path, tmp_path).resolve("imagenet", model_type="resnet18")


def test_without_a_folder_a_library_is_asked_once_and_its_weights_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torchvision_models.resnet18().state_dict()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    name = torchvision_models.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[-1]
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "torch/hub/checkpoints" / name)
    hub = source("", tmp_path / "cache")
    ref = hub.resolve("imagenet", model_type="resnet18")
    assert (ref.licence, ref.architecture) == ("bsd-3-clause", "resnet18")
    assert torch.equal(hub.fetch(ref).read()["conv1.weight"], state["conv1.weight"])
    (tmp_path / "torch/hub/checkpoints" / name).unlink()
    assert hub.resolve("imagenet", model_type="resnet18") == ref


def test_a_hub_that_does_not_answer_is_said_with_the_way_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ServiceUnavailable, match=r"weights of resnet18 could not be downloaded .*TIRE_WEIGHTS"):
        source("", tmp_path).resolve("imagenet", model_type="resnet18")


def test_a_network_without_imagenet_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ImageNet weights of cnn"):
        source("", tmp_path).resolve("imagenet", model_type="cnn")


def test_the_weights_are_part_of_the_cache_key_and_pinned(folder: Path, tmp_path: Path) -> None:
    split = SplitRef(SnapshotRef("v1", "d1", 10, ["a", "b"]), "p1", 6, 2, 2)
    services: Any = fake_services(tmp_path, weights=str(folder))
    config = TrainingConfig.of("resnet18", weights="imagenet")
    first = pretrained.resolved(services, config)
    assert first == pretrained.resolved(services, first)
    assert pretrained.fetched(services, first) == folder / "resnet18.safetensors"
    write_manifest(folder, architecture="resnet18")  # now with ImageNet's mean
    second = pretrained.resolved(services, config)
    assert cache_key(split, first, None) != cache_key(split, second, None)
    with pytest.raises(InputError, match="changed since this training was planned"):
        pretrained.resolved(services, first)


def test_a_training_without_weights_asks_for_none(tmp_path: Path) -> None:
    services: Any = fake_services(tmp_path)
    config = TrainingConfig.of("cnn")
    assert pretrained.resolved(services, config) is config
    assert pretrained.fetched(services, config) is None


@pytest.mark.skipif(not MOBILENET.is_file(), reason="needs shared/data beside the repository")
def test_real_weights_tell_pits_from_good_metal_in_real_photographs_of_other_places(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / MOBILENET.name).symlink_to(MOBILENET.absolute())
    write_manifest(folder, architecture="timm:mobilenetv2_100", arguments={"pad_type": "same"})
    there = source(folder, tmp_path / "cache")
    ref = there.resolve("imagenet", model_type="timm:mobilenetv2_100")
    size = {"image_height": 128, "image_width": 128}
    config = TrainingConfig.of("timm:mobilenetv2_100", weights="imagenet", pretrained=ref, **size)
    model = build_network(config, num_classes=2, weights=there.fetch(ref).path).eval()

    rows = pd.read_csv(MOBILENET.parents[1] / "pitting/labels.csv").iloc[::6].reset_index(drop=True)
    files = [MOBILENET.parents[1] / "pitting" / path for path in rows["path"]]
    spec = Preprocessing(128, 128, model.mean, model.std)
    x_BCHW = torch.from_numpy(np.stack([prepare(decode(f.read_bytes()), spec) for f in files]))
    with torch.inference_mode():
        features_NF = np.concatenate([model.features(part).numpy() for part in x_BCHW.split(32)])
    seen = rows["group"].isin(sorted(rows["group"].unique())[::2]).to_numpy()
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    predicted = probe.fit(features_NF[seen], rows["label"][seen]).predict(features_NF[~seen])
    assert balanced_accuracy_score(rows["label"][~seen], predicted) > 0.88
