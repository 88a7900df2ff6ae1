"""A person's approval before production, when the run asked for it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context


class ApproveIfAsked(ApprovalOperator):
    """Waits for a person when the trigger form's `approval` is set; without it, it passes at once.

    No answer within `response_timeout` is a refusal.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("response_timeout", timedelta(days=3))
        super().__init__(defaults="Reject", **kwargs)

    def execute(self, context: Context) -> Any:
        if not context["params"].get("approval"):
            self.log.info("this run goes to production without a person's approval: the trigger form asked for none")
            return None
        return super().execute(context)
