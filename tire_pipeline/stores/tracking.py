"""Tracking and registry in MLflow, by its client alone; no pickled flavour is written or read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tire_pipeline.errors import InputError, ServiceUnavailable


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of the registered model and the tags it was registered with."""

    version: int
    run_id: str
    tags: dict[str, str]


class Tracking:
    """One project's experiment and registered model."""

    def __init__(self, url: str, *, project: str, public_url: str = "") -> None:
        if not url.startswith(("http://", "https://")):  # MLflow would take it for a folder
            raise InputError(f"TIRE_MLFLOW_URL is {url!r}, but must be an address such as http://127.0.0.1:5000.")
        self._client, self.project = MlflowClient(tracking_uri=url, registry_uri=url), project
        self._url, self._public_url = url, public_url or url

    def start_run(self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Open a run in the project's experiment; returns its id."""
        with self._errors():
            run = self._client.create_run(self._experiment(), run_name=name, tags=dict(tags))
            run_id: str = run.info.run_id
            self._client.log_batch(run_id, params=[Param(k, str(v)) for k, v in sorted(params.items())])
        return run_id

    def find_run(self, tag: str, value: str) -> str | None:
        """Id of the newest finished run with this tag, or None."""
        with self._errors():
            found = self._client.search_runs(
                [self._experiment()],
                filter_string=f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'",
                max_results=1,
            )
        return found[0].info.run_id if found else None

    def newest_with(self, tag: str) -> str | None:
        """Id of the finished run with this tag, whatever its value, that ended last; None where there is none."""
        with self._errors():
            found = self._client.search_runs(
                [self._experiment()],
                filter_string=f"tags.`{tag}` LIKE '%' and attributes.status = 'FINISHED'",
                order_by=["attributes.end_time DESC"],
                max_results=1,
            )
        return found[0].info.run_id if found else None

    def newest_runs(self, *, param: str, value: str, limit: int) -> list[dict[str, str]]:
        """The tags of the newest finished runs with this parameter."""
        with self._errors():
            found = self._client.search_runs(
                [self._experiment()],
                filter_string=f"params.`{param}` = '{value}' and attributes.status = 'FINISHED'",
                max_results=limit,
            )
        return [dict(run.data.tags) for run in found]

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0, at_ms: int = 0) -> None:
        """Values of now, or of `at_ms`. Of several at one step MLflow gives the newest, of equally new the largest."""
        when = at_ms or int(time.time() * 1000)
        with self._errors():
            self._client.log_batch(run_id, metrics=[Metric(k, float(v), when, step) for k, v in metrics.items()])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        with self._errors():
            self._client.log_batch(run_id, tags=[RunTag(k, str(v)) for k, v in tags.items()])

    def metrics(self, run_id: str) -> dict[str, float]:
        """The last value of every metric of the run."""
        with self._errors():
            return dict(self._client.get_run(run_id).data.metrics)

    def tags(self, run_id: str) -> dict[str, str]:
        with self._errors():
            return dict(self._client.get_run(run_id).data.tags)

    def log_folder(self, run_id: str, folder: Path, *, to: str | None = None) -> None:
        """Copy the folder's files into the run's artifacts."""
        with self._errors():
            self._client.log_artifacts(run_id, str(folder), to)

    def download(self, run_id: str, path: str, folder: Path) -> Path:
        """Copy the run's artifacts below `path` into `folder`; returns where they lie."""
        folder.mkdir(parents=True, exist_ok=True)
        with self._errors():
            return Path(self._client.download_artifacts(run_id, path, str(folder)))

    def end_run(self, run_id: str, *, status: str = "FINISHED") -> None:
        with self._errors():
            self._client.set_terminated(run_id, status)

    def register(self, *, run_id: str, key: str, tags: Mapping[str, str]) -> RegisteredVersion:
        """The version of this `key` (an idempotency key), made if there is none.

        Callers hold the ledger's promotion lock: MLflow itself would make two versions of two calls.
        """
        if (found := self.version_by_tag("tire.key", key)) is not None:
            return found
        with self._errors():
            try:
                self._client.create_registered_model(self.project)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = self._client.create_model_version(
                self.project, source=f"runs:/{run_id}/model", run_id=run_id, tags={**tags, "tire.key": key}
            )
        return RegisteredVersion(int(made.version), run_id, {**tags, "tire.key": key})

    def version_by_tag(self, tag: str, value: str) -> RegisteredVersion | None:
        return next((v for v in self.versions() if v.tags.get(tag) == value), None)

    def versions(self) -> Sequence[RegisteredVersion]:
        """Every registered version, newest first."""
        found: list[Any] = []
        token: str | None = None
        with self._errors():
            while token != "":
                page = self._client.search_model_versions(f"name = '{self.project}'", page_token=token)
                found += page
                token = page.token or ""
        return sorted(
            (RegisteredVersion(int(v.version), v.run_id or "", dict(v.tags)) for v in found), key=lambda v: -v.version
        )

    def by_alias(self, alias: str) -> RegisteredVersion | None:
        """The version behind `staging`, `production` or `previous`, or None."""
        try:
            with self._errors():
                v = self._client.get_model_version_by_alias(self.project, alias)
        except InputError:
            return None
        return RegisteredVersion(int(v.version), v.run_id or "", dict(v.tags))

    def set_alias(self, alias: str, version: int) -> None:
        """Move the alias, last write wins: callers hold the ledger's promotion lock."""
        with self._errors():
            self._client.set_registered_model_alias(self.project, alias, str(version))

    def run_url(self, run_id: str) -> str:
        """Address of the run's page."""
        with self._errors():
            return f"{self._public_url}/#/experiments/{self._experiment()}/runs/{run_id}"

    def _experiment(self) -> str:
        experiment = self._client.get_experiment_by_name(self.project)
        if experiment is not None:
            return str(experiment.experiment_id)
        try:
            return str(self._client.create_experiment(self.project))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another candidate was faster
                raise
            return self._experiment()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            first_line = str(error).strip().splitlines()[0][:300]
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise InputError(f"MLflow at {self._url} says: {first_line}") from error
            raise ServiceUnavailable(
                f"MLflow at {self._url} did not answer: {first_line}. `tire status` tells whether it runs; "
                "TIRE_MLFLOW_URL is the address."
            ) from error
