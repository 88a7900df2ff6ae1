"""Airflow as others see it: its REST API, for the notes of runs and for those who wait for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from tire_pipeline.errors import InputError, ServiceUnavailable

NOTE_MAX = 1000


class Orchestrator:
    """One Airflow and one of its users. The token is fetched with the first request, and anew when it has expired."""

    def __init__(self, url: str, *, user: str, password: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=20)
        self._url, self._user, self._password = url, user, password

    def run(self, dag_id: str, run_id: str) -> dict[str, Any] | None:
        """The run as the API gives it (`state`, `note`, `start_date`, `end_date`, …), or None when there is none."""
        answer = self._request("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")
        return None if answer.status_code == 404 else self._json(answer)

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """The newest runs of the DAG, at most 100."""
        found: list[dict[str, Any]] = self.get(f"/api/v2/dags/{dag_id}/dagRuns?limit=100&order_by=-run_after")[
            "dag_runs"
        ]
        return found

    def get(self, path: str) -> dict[str, Any]:
        """What the REST API answers for a path."""
        return self._json(self._request("GET", path))

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Every task instance of the run, mapped ones each."""
        answer = self.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=200")
        found: list[dict[str, Any]] = answer["task_instances"]
        return found

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any] | None:
        """The newest try of one task instance (`state`, `try_number`, …), or None when there is none."""
        path = f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}/taskInstances/{quote(task_id)}/{map_index}"
        answer = self._request("GET", path)
        return None if answer.status_code == 404 else self._json(answer)

    def answer(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> dict[str, Any] | None:
        """What a person, or the timeout, answered to one try of a task that asked (`chosen_options`, `responded_at`,
        `responded_by_user`, `task_instance`, …; `response_received` says whether anybody did), or None for a try
        that did not ask."""
        path = f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}/taskInstances/{quote(task_id)}/-1/hitlDetails"
        answer = self._request("GET", f"{path}/tries/{try_number}")
        return None if answer.status_code == 404 else self._json(answer)

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> Any:
        """What the task returned, or None when it returned nothing."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        answer = self._request("GET", f"{path}?map_index={map_index}&deserialize=true")
        return None if answer.status_code == 404 else self._json(answer)["value"]

    def set_note(self, dag_id: str, run_id: str, text: str) -> None:
        """Put `text` on the run's page, cut to what Airflow takes; it replaces an earlier note."""
        self._json(self._request("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}", json={"note": text[:NOTE_MAX]}))

    def close(self) -> None:
        self._client.close()

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with self._errors():
            if "Authorization" not in self._client.headers:
                self._log_in()
            answer = self._client.request(method, path, **arguments)
            if answer.status_code == 401:
                self._log_in()
                answer = self._client.request(method, path, **arguments)
        return answer

    def _log_in(self) -> None:
        answer = self._client.post("/auth/token", json={"username": self._user, "password": self._password})
        if answer.status_code in (401, 403):
            raise InputError(
                f"Airflow at {self._url} refuses the login of {self._user!r}. Check TIRE_AIRFLOW_USER and "
                "TIRE_AIRFLOW_PASSWORD."
            )
        self._client.headers["Authorization"] = f"Bearer {self._json(answer)['access_token']}"

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        if answer.is_error:
            raise ServiceUnavailable(
                f"Airflow at {self._url} answered {answer.status_code} for {answer.request.url.path}: "
                f"{answer.text[:200]}"
            )
        found: dict[str, Any] = answer.json()
        return found

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise ServiceUnavailable(
                f"Airflow at {self._url} did not answer ({type(error).__name__}). `tire status` tells whether it runs; "
                "TIRE_AIRFLOW_URL is the address."
            ) from error
