"""Steps around a person's approval: the evidence to decide by, and what a refusal leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tire_pipeline.refs import ModelRef
from tire_pipeline.steps.contest import contest
from tire_pipeline.steps.live import live

if TYPE_CHECKING:
    from tire_pipeline.wiring import Services


def evidence(
    model: ModelRef,
    metric: str,
    *,
    threshold: float | None = None,
    limits: Mapping[str, Any] | None = None,
    checked: Mapping[str, float] | None = None,
    services: Services | None = None,
) -> str:
    """What a person should know before saying yes, in Markdown: what the gate says rule by rule, what the serving
    check (`checked`) found, and where to look. Decides and moves nothing."""
    from tire_pipeline.metrics import canonical, names
    from tire_pipeline.registry.gate import Gate, decide

    s = live(services)
    gate = Gate(canonical(metric, names(has_positive=True)), threshold, **(limits or {}))
    champion = s.tracking.by_alias("production")
    decision = decide(*contest(s, model, champion, gate), gate)
    serves = f"version {champion.version}" if champion else "no model"
    lines = [
        f"**{model.candidate}, version {model.version}**, is to replace {serves} in production.",
        f"The gate says **{'yes' if decision.promote else 'no'}**, whatever is answered here it has the last word:",
        "\n".join(f"- {'✓' if v.passed else '✗'} {v.rule}: {v.text}" for v in decision.verdicts),
    ]
    if checked:
        found = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in checked.items())
        lines.append(f"In the server: {found}.")
    url = s.tracking.run_url(model.run_id)
    lines.append(f"[Figures]({url}), [model card]({url}/artifacts/evaluation/model_card.html)")
    return "\n\n".join(lines)


def answer_left(
    dag_id: str, run_id: str, task_id: str, try_number: int, *, services: Services | None = None
) -> dict[str, Any] | None:
    """The answer that a person gave and no try acted on, as Airflow hands it to a task; None where none is left.

    Airflow 3.3 takes an answer for a failure that comes before its scheduler has seen the task pause, and a try may end
    between the answer and what it sets off. The next try (`try_number`) goes on from there instead of asking again. A
    try that ended well has done what it was told: whoever clears it wants to be asked anew.
    """
    airflow = live(services).orchestrator
    for number in range(try_number, 0, -1):  # the newest first: one that never ran leaves its question to its successor
        asked = airflow.answer(dag_id, run_id, task_id, number)
        if asked and asked["task_instance"]["state"] == "success":
            return None
        if asked and asked["response_received"]:
            return {
                "chosen_options": asked["chosen_options"],
                "params_input": asked["params_input"],
                "responded_at": datetime.fromisoformat(asked["responded_at"]),
                "responded_by_user": asked["responded_by_user"],
            }
    return None


def reject(
    model: ModelRef, reason: str, *, run_key: str, actor: str = "nobody", services: Services | None = None
) -> None:
    """Write down that a person, or nobody in time, said no; production stays as it is. Once a run."""
    from tire_pipeline.registry.lifecycle import Registry

    s = live(services)
    Registry(s.tracking, s.ledger, actor=actor, run_key=run_key).refuse(model, reason)
