from __future__ import annotations

from typing import Any

import pytest

from tests.unit.fakes import evaluation
from tire_pipeline.alerts.run_report import compose


def move(action: str, version: int = 2, reason: str = "it is good") -> dict[str, Any]:
    return {"action": action, "to_version": version, "reason": reason}


def first_line(history: list[dict[str, Any]], *, failures: tuple[str, ...] = (), passed: bool = True) -> str:
    return compose("tire-defect", "v1", [evaluation(passed=passed)], history, failures).splitlines()[0]


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ([move("produced"), move("staged"), move("registered")], "version 2 is in production, because it is good."),
        ([move("refused", reason="it is bad"), move("staged")], "version 2 was refused, because it is bad."),
        ([move("staged", reason="best")], "version 2 is in staging (best); production was not touched."),
        ([move("registered")], "nothing was promoted."),
    ],
)
def test_the_decision_comes_first_with_its_reason(history: list[dict[str, Any]], said: str) -> None:
    assert first_line(history) == f"*tire-defect*, dataset version `v1`: {said}"


def test_a_run_in_which_no_candidate_passed_says_the_bar() -> None:
    assert first_line([], passed=False).endswith("no candidate passed: must reach 0.95.")


def test_a_run_that_failed_says_so_and_names_what_failed() -> None:
    text = compose("tire-defect", "v1", [], [], ["resnet18: out of memory"])
    assert text.splitlines() == [
        "*tire-defect*, dataset version `v1`: nothing was promoted, because the run failed.",
        "• failed: resnet18: out of memory",
    ]


@pytest.mark.parametrize(("metric", "order"), [("recall", ["b", "c", "a"]), ("log_loss", ["a", "c", "b"])])
def test_the_leaderboard_has_the_best_first_also_where_lower_is_better(metric: str, order: list[str]) -> None:
    values = {"a": 0.2, "b": 0.9, "c": 0.5}
    board = [evaluation(value=v, metric=metric, candidate=c, passed=c != "c") for c, v in values.items()]
    lines = compose("p", "v1", board, [], []).splitlines()[1:]
    assert [line.split()[1] for line in lines] == [f"{c}:" for c in order]
    assert lines[1].endswith("0.500 [0.400, 0.600], below the threshold")
