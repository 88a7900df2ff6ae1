"""The three schemas. Each is migrated by its owner's own tool, all at once, and only when a version changed.

The stamp lies beside PostgreSQL's data, so that who removes the data removes it too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.stack.config import write_private
from tire_pipeline.stack.supervision import log_tail

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Lock

    from tire_pipeline.stack.config import Config
    from tire_pipeline.stack.records import Part

_log = logging.getLogger(__name__)

# `mlflow db upgrade URL` wants the URL, with its password, on the command line. This is the same function.
_MLFLOW_UPGRADE = "import os; from mlflow.db import upgrade; upgrade.callback(os.environ['MLFLOW_BACKEND_STORE_URI'])"
TIMEOUT_S = 300


def wanted_versions() -> dict[str, str]:
    """What each schema depends on: the version of its owner, and for the ledger the bytes of its migrations."""
    folder = Path(__file__).parents[1] / "stores" / "migrations"
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return {
        "mlflow": version("mlflow"),
        "airflow": version("apache-airflow-core"),
        "ledger": digest.hexdigest()[:16],
    }


class Stamp:
    """Which versions the schemas of one stack were last brought to. Written after each migration that succeeded."""

    def __init__(self, config: Config, lock: Lock) -> None:
        self._file = config.home / "postgres" / "schemas.json"
        self._lock = lock

    def read(self) -> dict[str, str]:
        try:
            return dict(json.loads(self._file.read_text()))
        except (FileNotFoundError, ValueError):
            return {}

    def set(self, schema: str, reached: str) -> None:
        with self._lock:
            write_private(self._file, json.dumps({**self.read(), schema: reached}))

    def clear(self) -> None:
        self._file.unlink(missing_ok=True)


def migrate(
    schema: str, config: Config, parts: dict[str, Part], *, migrate_ledger: Callable[[str], object] | None
) -> None:
    """Bring one schema (`airflow`, `mlflow`, `ledger`) to the installed version. Raises ServiceUnavailable."""
    _log.info("migrating schema %s", schema)
    if schema == "ledger":
        (migrate_ledger or _product_ledger)(config.database_url("ledger"))
    elif schema == "mlflow":
        _run(schema, config, parts["mlflow"], [sys.executable, "-c", _MLFLOW_UPGRADE])
    else:
        _run(schema, config, parts["airflow-scheduler"], [sys.executable, "-m", "airflow", "db", "migrate"])


def _product_ledger(url: str) -> None:
    from tire_pipeline.stores import ledger  # noqa: PLC0415 - alembic, only when something is to be migrated

    ledger.migrate(url)


def _run(schema: str, config: Config, part: Part, argv: list[str]) -> None:
    log = config.home / "logs" / f"migrate-{schema}.log"
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                argv, env=part.env, cwd=part.cwd, stdout=output, stderr=output, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise ServiceUnavailable(f"Migrating the schema of {schema} took over {TIMEOUT_S} s; see {log}.") from None
    if done.returncode != 0:
        raise ServiceUnavailable(
            f"Migrating the schema of {schema} failed. The last lines of {log}:\n"
            f"{log_tail(config.home, f'migrate-{schema}')}"
        )
