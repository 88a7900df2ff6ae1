"""Buttons on a task that open what it made."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

from tire_pipeline import steps
from tire_pipeline.settings import load_settings

VERSION = "dataset_version"


def linked(result: Any, *links: BaseOperatorLink) -> Any:
    """The result of a task, whose page then has these buttons: `@task` itself takes none."""
    result.operator.operator_extra_links = links
    return result


class DataReportLink(BaseOperatorLink):
    """The report on the dataset version that a task judged, and left under VERSION; of a refused one, too."""

    name = "Report on the data"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        version = XCom.get_value(ti_key=ti_key, key=VERSION)
        return steps.report_url(version) if version else ""


class MlflowRunLink(BaseOperatorLink):
    """The MLflow run of a training task."""

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        result = XCom.get_value(ti_key=ti_key, key="return_value")
        if not isinstance(result, dict) or "run_id" not in result:
            return ""
        settings = load_settings()
        return f"{settings.mlflow_public_url or settings.mlflow_url}/#/runs/{result['run_id']}"
