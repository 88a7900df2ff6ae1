"""The approval task, with the answers that Airflow brings it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators import hitl
from airflow.sdk.exceptions import DownstreamTasksSkipped, TaskAwaitingInput
from tire_airflow.approval import ApproveIfAsked

from tire_pipeline import steps
from tire_pipeline.refs import ModelRef

MODEL = {"name": "m", "version": 4, "run_id": "r", "bundle_digest": "d", "candidate": "cnn", "snapshot_digest": "s"}
EVENT = {"params_input": {}, "responded_at": datetime(2026, 1, 1, tzinfo=UTC)}


class Skipping(ApproveIfAsked):
    """Keeps what Airflow is told to skip, which ends the task by an exception, as Airflow's own does."""

    skipped: list[str]

    def skip(self, *, ti: Any, tasks: Any) -> None:
        self.skipped = [t.task_id for t in tasks]
        raise DownstreamTasksSkipped(tasks=self.skipped)


@pytest.fixture
def operator() -> Skipping:
    made = Skipping(task_id="approve", subject="Put it into production?")
    made.downstream_task_ids.add("produce")
    return made


def context(*, approval: bool, try_number: int = 1) -> dict[str, Any]:
    values = {"stage": MODEL, "check_serving": {"p95_ms": 12.0}}
    ti = SimpleNamespace(
        id="ti",
        dag_id="train_and_promote",
        run_id="run",
        task_id="approve",
        try_number=try_number,
        xcom_pull=lambda task_ids: values[task_ids],
    )
    produce = SimpleNamespace(task_id="produce", is_teardown=False)
    task = SimpleNamespace(get_direct_relatives=lambda upstream: [produce])
    params = {"dataset_version": "v1", "approval": approval, "min_recall": 0.9}
    return {"params": params, "ti": ti, "task_instance": ti, "task": task, "run_id": "run"}


def test_a_run_that_asked_for_no_approval_goes_on_at_once(operator: Skipping, monkeypatch: Any) -> None:
    monkeypatch.setattr(steps, "evidence", lambda *_, **__: pytest.fail("nobody will read it"))
    assert operator.execute(context(approval=False)) is None
    only_staging = context(approval=True)
    only_staging["params"]["target"] = "staging"
    assert operator.execute(only_staging) is None


def test_the_person_who_is_asked_sees_what_the_gate_says(operator: Skipping, monkeypatch: Any) -> None:
    asked: dict[str, Any] = {}
    given: list[Any] = []

    def evidence(model: ModelRef, metric: str, **options: Any) -> str:
        given.extend([model, metric, options])
        return "- ✓ metric: good"

    monkeypatch.setattr(steps, "evidence", evidence)
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **detail: asked.update(detail))
    with pytest.raises(TaskAwaitingInput) as waiting:
        operator.execute(context(approval=True))
    assert (asked["body"], asked["defaults"], asked["options"]) == (
        "- ✓ metric: good",
        ["Reject"],
        ["Approve", "Reject"],
    )
    assert waiting.value.timeout == timedelta(days=3)
    assert given[0] == ModelRef(**MODEL)
    assert given[1:] == [
        "balanced_accuracy",
        {"threshold": 0.75, "limits": {"recall_min": 0.9}, "checked": {"p95_ms": 12.0}},
    ]


@pytest.mark.parametrize(
    ("by", "reason", "actor"),
    [
        ({"id": "1", "name": "ann"}, "ann rejected it in Airflow", "ann"),
        (None, "nobody approved it within 3 days, 0:00:00", "nobody"),
    ],
)
def test_a_no_and_no_answer_skip_the_promotion_and_are_written_down(
    operator: Skipping, monkeypatch: Any, by: Any, reason: str, actor: str
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(steps, "reject", lambda *args, **options: kept.append((args, options)))
    answer = {**EVENT, "chosen_options": ["Reject"], "responded_by_user": by}
    with pytest.raises(DownstreamTasksSkipped):
        operator.execute_complete(context(approval=True), answer)
    assert kept == [((ModelRef(**MODEL), reason), {"run_key": "run", "actor": actor})]
    assert operator.skipped == ["produce"]


def test_a_yes_goes_on_and_leaves_nothing_behind(operator: Skipping, monkeypatch: Any) -> None:
    monkeypatch.setattr(steps, "reject", lambda *_, **__: pytest.fail("it was approved"))
    answer = {**EVENT, "chosen_options": ["Approve"], "responded_by_user": {"id": "1", "name": "ann"}}
    operator.execute_complete(context(approval=True), answer)
    assert not hasattr(operator, "skipped")


def test_a_retry_acts_on_the_answer_that_is_left_and_asks_nobody(operator: Skipping, monkeypatch: Any) -> None:
    sought: list[Any] = []
    kept: list[Any] = []
    left = {**EVENT, "chosen_options": ["Reject"], "responded_by_user": {"id": "1", "name": "ann"}}
    monkeypatch.setattr(steps, "answer_left", lambda *task: sought.append(task) or left)
    monkeypatch.setattr(steps, "reject", lambda *args, **options: kept.append(options["actor"]))
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **_: pytest.fail("it was answered"))
    with pytest.raises(DownstreamTasksSkipped):
        operator.execute(context(approval=True, try_number=2))
    assert sought == [("train_and_promote", "run", "approve", 2)]
    assert kept == ["ann"]


def test_a_retry_without_an_answer_asks(operator: Skipping, monkeypatch: Any) -> None:
    monkeypatch.setattr(steps, "answer_left", lambda *_: None)
    monkeypatch.setattr(steps, "evidence", lambda *_, **__: "- ✓ metric: good")
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **_: None)
    with pytest.raises(TaskAwaitingInput):
        operator.execute(context(approval=True, try_number=2))
