"""What a search makes of trials that end well, badly, early, or not at all. The trainings themselves are made up here;
`tests/integration/test_training.py` searches with real ones."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from tire_pipeline import steps
from tire_pipeline.errors import InputError, Interrupted, ServiceUnavailable, TireError
from tire_pipeline.refs import SnapshotRef, SplitRef
from tire_pipeline.steps import tuning
from tire_pipeline.stores.studies import load_study

SPLIT = SplitRef(SnapshotRef("v1", "d1", 10, ["a", "b"]), "p1", 6, 2, 2)
SPACE = {"fixed": {"epochs": 6, "monitor": "accuracy"}, "space": {"learning_rate": {"low": 0.001, "high": 0.01}}}
Accuracy = Callable[[int, int], float]


class Trainings:
    """In the place of `steps.train`: the accuracy of trial and epoch as a test has it, and all that was asked for."""

    def __init__(self, fake: Any, accuracy: Accuracy) -> None:
        self.fake, self.accuracy, self.asked = fake, accuracy, []

    def __call__(
        self, spec: dict[str, Any], *, resume: bool, tags: dict[str, str], on_epoch: Any, services: Any
    ) -> Any:
        assert resume
        assert tags["mlflow.parentRunId"] in self.fake.tracking.runs
        number = len(self.asked)
        self.asked.append(spec["config"]["learning_rate"])
        curve = [self.accuracy(number, epoch) for epoch in range(spec["config"]["epochs"])]
        for epoch, value in enumerate(curve):
            on_epoch(epoch, {"val/accuracy": value})
        run_id = f"run-{number}"
        self.fake.tracking.log_metrics(run_id, {"kept/accuracy": max(curve)})
        return SimpleNamespace(run_id=run_id)


@pytest.fixture
def search(fake: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    fake.studies = optuna.storages.InMemoryStorage()

    def with_accuracy(accuracy: Accuracy, *, trials: int, **options: Any) -> Any:
        trainings = Trainings(fake, accuracy)
        monkeypatch.setattr(tuning, "train", trainings)
        found = steps.tune(SPLIT, SPACE, trials=trials, services=fake, **options)
        return found, trainings.asked

    return with_accuracy


def test_the_best_trial_is_told_with_all_that_it_was_trained_with(search: Any) -> None:
    found, asked = search(lambda trial, epoch: [0.5, 0.9, 0.7][trial], trials=3)
    assert (found.num_complete, found.num_pruned, found.num_failed) == (3, 0, 0)
    assert (found.metric, found.best_value, found.best_run_id) == ("accuracy", 0.9, "run-1")
    assert (found.best_config["learning_rate"], found.best_config["epochs"]) == (asked[1], 6)


def test_a_trial_that_lags_behind_the_others_is_given_up(search: Any) -> None:
    found, _ = search(lambda trial, epoch: 0.1 if trial == 5 else 0.8, trials=6)
    assert (found.num_complete, found.num_pruned) == (5, 1)


def test_a_trial_that_cannot_be_trained_is_a_failed_one_and_the_search_goes_on(search: Any) -> None:
    def accuracy(trial: int, epoch: int) -> float:
        if trial == 0:
            raise TireError("The loss became nan")
        return 0.6

    found, _ = search(accuracy, trials=3)
    assert (found.num_complete, found.num_failed) == (2, 1)


@pytest.mark.parametrize("error", [Interrupted("SIGTERM"), ServiceUnavailable("S3 did not answer")])
def test_a_trial_that_was_interrupted_is_tried_again_with_its_values_by_the_same_command(
    search: Any, fake: Any, error: TireError
) -> None:
    def stop(trial: int, epoch: int) -> float:
        if trial == 1:
            raise error
        return 0.5

    with pytest.raises(type(error)):
        search(stop, trials=3)
    found, asked = search(lambda trial, epoch: 0.7, trials=3)
    assert (found.num_complete, found.num_failed) == (3, 0)
    assert len(asked) == 2
    trials = load_study(fake.studies, found.study, seed=0).trials
    assert asked[0] == trials[1].params["learning_rate"]


def test_no_trial_to_its_end_is_no_result(search: Any) -> None:
    def fail(trial: int, epoch: int) -> float:
        raise TireError("no")

    with pytest.raises(TireError, match=r"No trial of study 'cnn-.*' came to its end"):
        search(fail, trials=2)


def test_a_name_that_stands_for_another_search_is_refused(search: Any, fake: Any) -> None:
    search(lambda trial, epoch: 0.5, trials=1, study="mine")
    other = {**SPACE, "space": {"learning_rate": {"low": 0.002, "high": 0.01}}}
    with pytest.raises(InputError, match="The study 'mine' is about another space or split"):
        steps.tune(SPLIT, other, trials=1, study="mine", services=fake)
