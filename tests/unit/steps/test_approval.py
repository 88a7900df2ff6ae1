"""What a retry of `approve` finds of the answers that were given before it."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from tire_pipeline import steps

ANN = {"id": "1", "name": "ann"}


def asked(state: str, option: str | None = None) -> dict[str, Any]:
    """A try that asked, as Airflow's API gives it, and what it was answered."""
    return {
        "chosen_options": [option] if option else None,
        "params_input": {},
        "responded_at": "2026-01-01T00:00:00Z" if option else None,
        "responded_by_user": ANN if option else None,
        "response_received": bool(option),
        "task_instance": {"state": state},
    }


class Airflow:
    """Questions by try; a try that is not there did not ask."""

    def __init__(self, tries: dict[int, dict[str, Any]]) -> None:
        self.tries = tries

    def answer(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> dict[str, Any] | None:
        assert (dag_id, run_id, task_id) == ("train_and_promote", "r", "approve")
        return self.tries.get(try_number)


def left(try_number: int, tries: dict[int, dict[str, Any]]) -> dict[str, Any] | None:
    services: Any = SimpleNamespace(orchestrator=Airflow(tries))
    return steps.answer_left("train_and_promote", "r", "approve", try_number, services=services)


@pytest.mark.parametrize(
    ("try_number", "tries"),
    [
        (2, {1: asked("failed", "Approve")}),
        (2, {2: asked("running", "Approve")}),  # its try never ran: the question is its successor's
        (3, {1: asked("failed", "Approve")}),  # the second ended before it had asked anything
        (3, {1: asked("success", "Reject"), 2: asked("failed", "Approve")}),
        (3, {1: asked("failed", "Reject"), 2: asked("failed", "Approve")}),
    ],
)
def test_the_newest_answer_that_no_try_acted_on_is_handed_to_the_next(
    try_number: int, tries: dict[int, dict[str, Any]]
) -> None:
    assert left(try_number, tries) == {
        "chosen_options": ["Approve"],
        "params_input": {},
        "responded_at": datetime(2026, 1, 1, tzinfo=UTC),
        "responded_by_user": ANN,
    }


@pytest.mark.parametrize(
    ("try_number", "tries"),
    [
        (2, {}),
        (2, {1: asked("failed")}),
        (2, {1: asked("success", "Reject")}),  # cleared by somebody who wants to be asked anew
        (3, {1: asked("success", "Approve"), 2: asked("failed")}),
    ],
)
def test_without_such_an_answer_the_question_is_asked(try_number: int, tries: dict[int, dict[str, Any]]) -> None:
    assert left(try_number, tries) is None
