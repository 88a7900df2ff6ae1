"""Buttons on a task that open what it made."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

from tire_pipeline.settings import load_settings


class MlflowRunLink(BaseOperatorLink):
    """The MLflow run of a training task."""

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        result = XCom.get_value(ti_key=ti_key, key="return_value")
        if not isinstance(result, dict) or "run_id" not in result:
            return ""
        settings = load_settings()
        return f"{settings.mlflow_public_url or settings.mlflow_url}/#/runs/{result['run_id']}"
