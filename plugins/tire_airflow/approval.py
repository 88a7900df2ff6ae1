"""A person's approval before production, when the run asked for it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context

from tire_airflow.tasks import airflow_errors
from tire_pipeline import steps
from tire_pipeline.refs import ModelRef


class ApproveIfAsked(ApprovalOperator):
    """Waits for a person when the trigger form's `approval` is set; without it, it passes at once.

    The person sees what the gate says of the model that `stage` returned, rule by rule. No answer within
    `response_timeout` is a refusal; a refusal is written down, skips what comes after, and leaves production as it was.
    A retry acts on the answer that the try before it was given, instead of asking again.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("response_timeout", timedelta(days=3))
        super().__init__(defaults=self.REJECT, **kwargs)

    def execute(self, context: Context) -> Any:
        params = context["params"]
        if not params.get("approval") or params.get("target") == "staging":
            self.log.info("nobody is asked: the trigger form asked for no approval, or for no production")
            return None
        if (left := _answer_left(context)) is not None:
            self.log.info("answered before, by %s: %s", left["responded_by_user"], left["chosen_options"])
            return self.execute_complete(context, left)
        request = steps.check_request(context["params"])
        with airflow_errors():
            self.body = steps.evidence(
                _staged(context),
                request.metric,
                threshold=request.threshold,
                limits=dict(request.gate),
                checked=context["ti"].xcom_pull(task_ids="check_serving"),
            )
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        if event.get("chosen_options") == [self.REJECT]:  # written down first: Airflow skips the rest by an exception
            by = event["responded_by_user"]
            who = by["name"] if by else "nobody"
            late = f"nobody approved it within {self.response_timeout}"
            with airflow_errors():
                steps.reject(
                    _staged(context),
                    f"{who} rejected it in Airflow" if by else late,
                    run_key=context["run_id"],
                    actor=who,
                )
        return super().execute_complete(context, event)


def _answer_left(context: Context) -> dict[str, Any] | None:
    ti = context["ti"]
    if ti.try_number == 1:
        return None
    with airflow_errors():
        return steps.answer_left(ti.dag_id, ti.run_id, ti.task_id, ti.try_number)


def _staged(context: Context) -> ModelRef:
    return ModelRef(**context["ti"].xcom_pull(task_ids="stage"))
