from __future__ import annotations

from typing import Any

import pytest

from tire_pipeline.errors import InputError
from tire_pipeline.steps.request import check_request, training_config

FORM = {"dataset_version": "v1"}


def test_a_bare_form_asks_for_every_candidate_up_to_production() -> None:
    request = check_request(FORM)
    assert request.candidates == ("resnet18", "cnn", "tiny_vgg")
    assert (request.metric, request.threshold, request.target) == ("balanced_accuracy", 0.75, "production")
    assert (request.seed, request.training, request.approval) == (0, (), False)


def test_a_full_form_reaches_every_candidates_configuration() -> None:
    form = {**FORM, "candidates": "cnn,resnet18", "epochs": 3, "optimizer_type": "adam", "loss": "", "seed": "7"}
    request = check_request({**form, "metric": "Loss", "threshold": "0.4", "target": "staging", "approval": True})
    assert (request.metric, request.threshold, request.target) == ("log_loss", 0.4, "staging")
    for candidate in request.candidates:
        config = training_config(request, candidate)
        assert (config.epochs, config.optimizer_type, config.seed) == (3, "adam", 7)
        assert config.loss == "cross_entropy"


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"dataset_version": ""}, "is not a dataset version name"),
        ({"dataset_version": None}, "is not a dataset version name"),
        ({"candidates": ["cnm"]}, "did you mean 'cnn'"),
        ({"candidates": "cnn,abc"}, "model_type is 'abc'"),
        ({"metric": "acc"}, "'acc' is no metric. Known are: accuracy"),
        ({"target": "moon"}, "target is 'moon', but must be one of production, staging, none"),
        ({"threshold": "high"}, "threshold is 'high', but must be a number"),
        ({"threshold": float("nan")}, "threshold is nan, but must be a number"),
        ({"threshold": True}, "threshold is True, but must be a number"),
        ({"seed": "x"}, "seed is 'x', but must be a number"),
        ({"seed": 1.5}, "seed is 1.5, but must be a whole number"),
        ({"seed": -1}, "seed is -1, but must be between"),
        ({"learning_rate": -0.1}, "learning_rate is -0.1, but must be between"),
        ({"optimizer_type": "adm"}, "did you mean 'adam'"),
        ({"lerning_rate": 0.1}, "Unknown parameters: lerning_rate"),
    ],
)
def test_each_field_that_cannot_be_used_is_refused_with_what_is_allowed(form: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        check_request({**FORM, **form})
    assert said in str(refused.value)


def test_the_recall_that_the_threshold_keeps_is_also_demanded_by_the_gate() -> None:
    request = check_request(
        {**FORM, "min_recall": 0.98, "cost_miss": 20, "cost_alarm": 1, "max_ece": 0.1, "min_slice": ""}
        | {"alpha": 0.01, "slice_images": 80, "robust": True}
    )
    assert dict(request.gate) == {"recall_min": 0.98, "ece_max": 0.1, "alpha": 0.01, "slice_images_min": 80}
    assert request.robust and not check_request(FORM).robust
    assert dict(request.training) == {"cost_alarm": 1, "cost_miss": 20, "min_recall": 0.98}
    assert check_request(FORM).gate == ()


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"max_ece": 2}, "max_ece is 2, but must be a share"),
        ({"cost_miss": 20}, "cost_miss and cost_alarm are given together"),
        ({"cost_review": 1}, "cost_review means nothing without cost_miss"),
        ({"min_recall": 1.5}, "min_recall is 1.5, but must be between 0 and 1"),
    ],
)
def test_costs_and_limits_that_cannot_be_used_are_refused(form: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        check_request({**FORM, **form})
    assert said in str(refused.value)


def test_a_threshold_of_zero_is_a_threshold() -> None:
    assert check_request({**FORM, "threshold": 0}).threshold == 0.0


def test_candidates_written_by_hand_join_those_chosen() -> None:
    form = {"dataset_version": "v1", "candidates": ["cnn"], "more_candidates": "timm:resnet18, cnn"}
    assert check_request(form).candidates == ("cnn", "timm:resnet18")
    alone = check_request({"dataset_version": "v1", "candidates": [], "more_candidates": "timm:resnet18"})
    assert alone.candidates == ("timm:resnet18",)
    assert len(check_request({"dataset_version": "v1", "candidates": [], "more_candidates": ""}).candidates) == 3


def test_among_several_candidates_those_without_imagenet_weights_start_from_scratch() -> None:
    form = {"dataset_version": "v1", "candidates": "cnn,resnet18", "weights": "imagenet"}
    request = check_request(form)
    assert [training_config(request, c).weights for c in request.candidates] == ["none", "imagenet"]
    with pytest.raises(InputError, match="cnn is trained from scratch"):
        check_request({**form, "candidates": "cnn"})
