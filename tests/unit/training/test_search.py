from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from tire_pipeline.errors import InputError
from tire_pipeline.stores.studies import count, load_study, open_study, try_again
from tire_pipeline.training.config_file import read_table
from tire_pipeline.training.search import parse_space

SPACE = {
    "model_type": "cnn",
    "fixed": {"epochs": 2, "monitor": "accuracy"},
    "space": {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": {"choices": [8, 16]},
        "patience": {"low": 1, "high": 3},
    },
}


def with_space(**space: Any) -> dict[str, Any]:
    return {**SPACE, "space": space}


def test_a_space_proposes_configurations_within_it_and_reads_back_as_it_is_declared() -> None:
    space = parse_space(SPACE)
    assert parse_space(json.loads(json.dumps(space.as_dict()))) == space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        config = space.config(study.ask())
        assert 1e-4 <= config.learning_rate <= 1e-2
        assert config.batch_size in (8, 16)
        assert config.patience in (1, 2, 3)
        assert (config.model_type, config.epochs, config.monitor) == ("cnn", 2, "accuracy")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (with_space(), "nothing to search"),
        (with_space(learning_rate={"low": 1, "high": 0.1}), "from 1 to 0.1: low must be below high"),
        (with_space(learning_rate={"low": 0, "high": 0.1, "log": True}), "above 0 if log"),
        (with_space(learning_rate=[1, 2]), "The dimension learning_rate is .* but looks like"),
        (with_space(batch_size={"choices": []}), "The dimension batch_size is"),
        (with_space(learning_rate={"low": 1e-3, "high": 100}), "learning_rate is 100, but must be between"),
        (with_space(loss={"choices": ["focal", "hinge"]}), "loss is 'hinge'"),
        (with_space(lr={"low": 1, "high": 2}), "Unknown training options: lr"),
        (with_space(epochs={"low": 1, "high": 2}), "Fixed and searched at once: epochs"),
        ({**SPACE, "trials": 3}, "Unknown in a space: trials"),
        ({**SPACE, "fixed": 3}, "must be tables"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_with_the_reason(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_space(given)


def test_a_trial_that_is_tried_again_counts_once() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = open_study(storage, "s", maximise=True, seed=0)
    first = study.ask()
    first.suggest_int("patience", 1, 3)
    study.tell(first, state=optuna.trial.TrialState.FAIL)
    assert count(study, "FAIL") == 1
    try_again(study, study.trials[0])
    assert count(study, "FAIL") == 0
    again = study.ask()
    assert again.suggest_int("patience", 1, 3) == study.trials[0].params["patience"]
    study.tell(again, 0.5)
    assert (count(study, "FAIL"), count(study, "COMPLETE")) == (0, 1)
    assert load_study(storage, "s", seed=1).direction.name == "MAXIMIZE"
    with pytest.raises(InputError, match="There is no study 'other'"):
        load_study(storage, "other", seed=0)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "epochs = = 3", "cannot be read"),
        ("a.json", "[1]", "holds a list"),
        ("a.yaml", "epochs: 3", "neither .toml nor .json"),
        ("a.json", "{", "cannot be read"),
    ],
)
def test_a_file_that_holds_no_table_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_table(tmp_path / name)


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('model_type = "cnn"\nepochs = 3\nlearning_rate = 1e-3\n')
    (tmp_path / "a.json").write_text('{"model_type": "cnn", "epochs": 3, "learning_rate": 0.001}')
    assert read_table(tmp_path / "a.toml") == read_table(tmp_path / "a.json")
