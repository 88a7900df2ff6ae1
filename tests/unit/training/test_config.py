from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tire_pipeline.errors import InputError
from tire_pipeline.refs import WeightsRef
from tire_pipeline.training.config import TrainingConfig, merge_form, parse_candidates, parse_size
from tire_pipeline.training.config_file import read_table
from tire_pipeline.training.options import OPTIONS
from tire_pipeline.training.recipes import RECIPES


@pytest.mark.parametrize("model_type", RECIPES)
def test_every_recipe_is_a_valid_configuration(model_type: str) -> None:
    assert TrainingConfig.of(model_type).as_dict()["model_type"] == model_type


def test_overrides_beat_the_recipe_and_none_leaves_it() -> None:
    config = TrainingConfig.of("resnet18", epochs=3, learning_rate=None)
    assert (config.epochs, config.learning_rate) == (3, RECIPES["resnet18"]["learning_rate"])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("learning_rate", -0.1, "learning_rate is -0.1, but must be between 1e-08 and 10"),
        ("learning_rate", math.nan, "learning_rate is nan, but must be between"),
        ("learning_rate", "0.1", "learning_rate is '0.1', but must be a number"),
        ("epochs", 0, "epochs is 0, but must be between 1 and 10000"),
        ("epochs", 2.5, "epochs is 2.5, but must be a whole number"),
        ("epochs", True, "epochs is True, but must be a whole number"),
        ("batch_size", 1, "batch_size is 1, but must be between 2 and 4096"),
        (
            "optimizer_type",
            "adm",
            "optimizer_type is 'adm', did you mean 'adam'? (known: adam, adamw, nadam, radam, rmsprop, sgd)",
        ),
        ("loss", "hinge", "loss is 'hinge' (known: cross_entropy, focal, f1)"),
        ("augmentation", "lite", "augmentation is 'lite', did you mean 'light'?"),
        ("image_height", 16, "image_height is 16, but must be between 32 and 2048"),
        ("seed", -1, "seed is -1"),
        ("weight_decay", 2, "weight_decay is 2"),
        ("label_smoothing", 0.6, "label_smoothing is 0.6"),
        ("threads", -1, "threads is -1"),
        ("image_width", 5000, "image_width is 5000"),
        ("scheduler", "cosin", "scheduler is 'cosin', did you mean 'cosine'?"),
        ("warmup_epochs", 2, "warmup_epochs is 2, but one_cycle has no warm-up to set"),
        ("accumulation", 9, "accumulation is 9, which leaves less than 2 images of a batch of 16"),
        ("ema_decay", 1.0, "ema_decay is 1.0, but must be between 0 and 0.99999"),
        ("mixing", "mixin", "mixing is 'mixin', did you mean 'mixup'?"),
        ("monitor", "recall", "monitor is 'recall' (known: log_loss"),
        ("device", "gpu", "device is 'gpu', did you mean 'cpu'? (known: auto, cuda, mps, cpu)"),
        ("precision", "bf61", "precision is 'bf61', did you mean 'bf16'?"),
        ("compile", "yes", "compile is 'yes', but must be true or false"),
    ],
)
def test_each_field_that_cannot_be_used_is_named_with_what_is_allowed(field: str, value: Any, said: str) -> None:
    with pytest.raises(InputError) as refused:
        TrainingConfig.of("cnn", **{field: value})
    assert said in str(refused.value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(InputError, match=r"model_type is 'resnet19', did you mean 'resnet18'\?.*; epochs is 0"):
        TrainingConfig("resnet19", epochs=0)


def test_an_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"Unknown training options: lr. Known are: .*learning_rate"):
        TrainingConfig.of("cnn", lr=0.1)


@pytest.mark.parametrize("given", ["cnn, resnet18,cnn", ["cnn", "resnet18", "cnn"]])
def test_candidates_are_named_once_each_in_their_order(given: Any) -> None:
    assert parse_candidates(given) == ["cnn", "resnet18"]


@pytest.mark.parametrize(
    ("given", "said"), [("cnm", "did you mean 'cnn'"), ("", "No candidate was named"), ([], "Choose from: cnn")]
)
def test_candidates_that_do_not_exist_are_refused(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_candidates(given)


def test_empty_fields_of_a_form_leave_the_recipe() -> None:
    assert merge_form({"epochs": 5, "loss": "", "seed": None, "dataset_version": "v1"}) == {"epochs": 5}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("head", "mpl", "head is 'mpl', did you mean 'mlp'? (known: linear, mlp)"),
        ("dropout", 0.95, "dropout is 0.95, but must be between 0 and 0.9"),
        ("weights", "", "weights is '', but must be a name"),
        ("weights", "imagenet", "weights is 'imagenet', but cnn is trained from scratch (leave it at none)"),
        ("fixed_norms", "yes", "fixed_norms is 'yes', but must be true or false"),
        ("resize", "pad", "resize is 'pad' (known: stretch, crop)"),
    ],
)
def test_each_field_of_the_network_that_cannot_be_used_is_named(field: str, value: Any, said: str) -> None:
    with pytest.raises(InputError) as refused:
        TrainingConfig.of("cnn", **{field: value})
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_100", "timm:resnet18.a1_in1k"])
def test_any_name_of_timm_is_a_candidate_with_a_recipe(name: str) -> None:
    assert parse_candidates(f"cnn,{name}") == ["cnn", name]
    assert TrainingConfig.of(name).image_height == 224


@pytest.mark.parametrize("name", ["timm:", "timm:../x", "timm:hf-hub:someone/model", "timm:A B", "TIMM:resnet18"])
def test_what_is_no_plain_name_of_timm_is_no_candidate(name: str) -> None:
    with pytest.raises(InputError, match="model_type is"):
        TrainingConfig.of(name)


def test_pretrained_weights_are_tuned_at_a_lower_rate_unless_one_is_asked_for() -> None:
    assert TrainingConfig.of("resnet34").learning_rate == 1e-3
    assert TrainingConfig.of("resnet34", weights="imagenet").learning_rate == 3e-4
    assert TrainingConfig.of("convnext_tiny", weights="imagenet").learning_rate == 2e-4
    assert TrainingConfig.of("resnet34", weights="imagenet", learning_rate=0.1).learning_rate == 0.1


def test_resolved_weights_survive_json() -> None:
    ref = WeightsRef("a.safetensors", "0" * 64, "resnet34", "mit", (0.5, 0.5, 0.5), (0.1, 0.2, 0.3), {"pad": "same"})
    config = TrainingConfig.of("resnet34", weights="a.safetensors", pretrained=ref)
    assert TrainingConfig(**json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("320x256", (320, 256)), ("64 × 96", (64, 96))])
def test_an_image_size_is_one_number_or_height_and_width(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "1x2x3", "-4", "3.5", "320*256"])
def test_what_is_no_image_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="but looks like 224, or like 320x256"):
        parse_size(text)


def test_every_field_of_a_configuration_has_an_option_and_a_default_that_its_option_allows() -> None:
    fields = {f.name: f.default for f in dataclasses.fields(TrainingConfig)}
    assert set(OPTIONS) == fields.keys() - {"model_type", "pretrained"}
    assert not any(option.problem(name, fields[name]) for name, option in OPTIONS.items())


@pytest.mark.parametrize("path", sorted(Path("docs/recipes").glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_in_the_documentation_is_a_configuration(path: Path) -> None:
    TrainingConfig.of(**read_table(path))
