"""Does a part answer? Each probe returns "" or the reason why not, and never takes longer than a few seconds."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import httpx
import psycopg2

from tire_pipeline.stack.postgres import connect
from tire_pipeline.stack.records import AIRFLOW_PARTS
from tire_pipeline.stack.supervision import programs, starts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tire_pipeline.stack.config import Config

TIMEOUT_S = 5.0
_PAGES = {"s3": "/_ministack/health", "mlflow": "/health", "serving": "/healthz"}
_AIRFLOW_NAMES = {
    "airflow-api-server": "metadatabase",
    "airflow-scheduler": "scheduler",
    "airflow-dag-processor": "dag_processor",
    "airflow-triggerer": "triggerer",
}


def unhealthy(config: Config, names: Iterable[str]) -> dict[str, str]:
    """The parts that do not answer as they should, each with the reason; empty when all is well."""
    names = list(names)
    known = programs(config.home)
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
        airflow = _airflow_report(config, client) if set(names) & set(AIRFLOW_PARTS) else {}
        reasons = {name: _reason(config, client, name, known.get(name), airflow) for name in names}
    return {name: reason for name, reason in reasons.items() if reason}


def _reason(
    config: Config, client: httpx.Client, name: str, info: dict[str, Any] | None, airflow: dict[str, Any]
) -> str:
    if info is None:
        return "it is not supervised"
    if info["statename"] not in ("RUNNING", "STARTING"):
        return f"it is {info['statename']}: {info['spawnerr'] or info['description']}"
    if name == "postgres":
        return _postgres(config)
    if name in _AIRFLOW_NAMES:
        return _airflow(name, started=starts(config.home, name)[-1:], report=airflow)
    return _page(client, config.url(name) + _PAGES[name])


def _postgres(config: Config) -> str:
    try:
        secret = config.secrets.postgres_password
        connect(config, user="postgres", password=secret, database="postgres").close()
    except psycopg2.OperationalError as error:
        return str(error).strip()
    return ""


def _page(client: httpx.Client, url: str) -> str:
    try:
        answer = client.get(url)
    except httpx.HTTPError as error:
        return f"{url}: {error or type(error).__name__}"
    return "" if answer.status_code == httpx.codes.OK else f"{url} answered {answer.status_code}"


def _airflow_report(config: Config, client: httpx.Client) -> dict[str, Any]:
    try:
        return dict(client.get(f"{config.url('airflow')}/api/v2/monitor/health").raise_for_status().json())
    except (httpx.HTTPError, ValueError) as error:
        return {"error": str(error) or type(error).__name__}


def _airflow(name: str, *, started: list[datetime], report: dict[str, Any]) -> str:
    """Healthy by Airflow's word, and by a heartbeat of this very process: the last one's still counts for 30 s."""
    if "error" in report:
        return f"the api-server does not answer: {report['error']}"
    entry = report[_AIRFLOW_NAMES[name]]
    if entry["status"] != "healthy":
        return f"Airflow calls it {entry['status'] or 'absent'}"
    if name == "airflow-api-server":
        return ""
    beat = datetime.fromisoformat(entry[f"latest_{_AIRFLOW_NAMES[name]}_heartbeat"])
    return "" if not started or beat >= started[0] else "it has not sent a heartbeat yet"
