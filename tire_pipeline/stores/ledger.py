"""The ledger in PostgreSQL: what was promoted and why, what was predicted, what was found wrong.

Tables live in the schema `tire`; alembic's migrations beside this module own their shape.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from importlib.resources import files
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, UUID, insert
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
)

from tire_pipeline.errors import InputError, ServiceUnavailable, one_line
from tire_pipeline.refs import digest_of

log = logging.getLogger(__name__)

SCHEMA = "tire"
metadata = sa.MetaData(schema=SCHEMA)


def _table(name: str, *columns: str, json: Sequence[str] = (), uuid: str = "") -> sa.Table:
    """A table by column names; the types that matter to a client are the JSON and UUID ones."""
    kinds: dict[str, Any] = {**dict.fromkeys(json, JSONB), uuid: UUID(as_uuid=False)}
    return sa.Table(name, metadata, *(sa.Column(c, kinds.get(c)) for c in columns))


snapshots = _table("snapshots", "digest", "version", "at", "num_images", "classes", json=["classes"])
promotions = _table(
    "promotions",
    *("id", "at", "actor", "action", "model", "from_version", "to_version", "reason"),
    *("evidence", "evidence_digest", "run_key"),
    json=["evidence"],
)
predictions = _table(
    "predictions",
    *("prediction_id", "at", "model_version", "model_digest", "label", "probability", "probabilities", "decision"),
    *("latency_ms", "width", "height", "brightness", "sharpness", "sha256", "error"),
    json=["probabilities"],
    uuid="prediction_id",
)
feedback = _table("feedback", "id", "at", "prediction_id", "label", "source", uuid="prediction_id")
windows = _table("monitoring_windows", "start", "end", "at", "metrics", json=["metrics"])
alerts = _table("alerts", "id", "at", "rule", "severity", "message", "window_end", "delivered_at")


class Ledger:
    """The ledger's rows. Every write is one transaction; those that can be repeated are idempotent."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url, pool_pre_ping=True, pool_size=2)

    def record_snapshot(self, *, digest: str, version: str, num_images: int, classes: Sequence[str]) -> None:
        """Note that `version` reads as `digest`; repeating it changes nothing."""
        row = {"digest": digest, "version": version, "num_images": num_images, "classes": list(classes)}
        self._run(insert(snapshots).values(row).on_conflict_do_nothing())

    def newest_snapshot(self) -> str:
        """Digest of the snapshot that was taken last. Raises InputError when there is none."""
        rows = self._rows(sa.select(snapshots.c.digest).order_by(snapshots.c.at.desc()).limit(1))
        if not rows:
            raise InputError("No dataset version was validated yet. `tire validate VERSION` takes its snapshot.")
        digest: str = rows[0]["digest"]
        return digest

    def record_promotion(
        self,
        *,
        actor: str,
        action: str,
        model: str,
        from_version: int | None,
        to_version: int | None,
        reason: str,
        evidence: Mapping[str, Any],
        run_key: str,
    ) -> None:
        """Append one step of a model's life. `action`: registered, staged, produced, refused or rolled_back."""
        proof = _jsonable(evidence)
        row = {
            "actor": actor,
            "action": action,
            "model": model,
            "from_version": from_version,
            "to_version": to_version,
            "reason": reason,
            "evidence": proof,
            "evidence_digest": digest_of(proof),
            "run_key": run_key,
        }
        self._run(promotions.insert().values(row))

    def promotions(
        self, *, model: str, run_key: str | None = None, actions: Sequence[str] = (), limit: int = 200
    ) -> list[dict[str, Any]]:
        """The model's history, newest first; only that of one pipeline run, or only these actions, where given."""
        query = promotions.select().where(promotions.c.model == model)
        if actions:
            query = query.where(promotions.c.action.in_(actions))
        if run_key is not None:
            query = query.where(promotions.c.run_key == run_key)
        return self._rows(query.order_by(promotions.c.id.desc()).limit(limit))

    def record_predictions(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append predictions; a `prediction_id` that is there already is left as it is."""
        if rows:
            self._run(insert(predictions).on_conflict_do_nothing(), [dict(r) for r in rows])

    def record_feedback(self, prediction_id: str, label: str, source: str) -> None:
        """What a person says the image really shows. Raises InputError for an unknown prediction or an empty label."""
        if not label:
            raise InputError(f"The feedback on prediction {prediction_id} has no label. Name the class that it shows.")
        row = {"prediction_id": prediction_id, "label": label, "source": source}
        try:
            self._run(feedback.insert().values(row))
        except (IntegrityError, DataError):  # not there, or no UUID at all
            raise InputError(
                f"There is no prediction {prediction_id}. Its id stands in the answer of /predict as `prediction_id`; "
                "a fresh one is known within seconds."
            ) from None

    def predictions_between(self, start: datetime, end: datetime) -> list[dict[str, Any]]:
        """Predictions with start ≤ at < end, oldest first, without their probabilities."""
        columns = [c for c in predictions.c if c.name != "probabilities"]
        query = sa.select(*columns).where(predictions.c.at >= start, predictions.c.at < end)
        return self._rows(query.order_by(predictions.c.at))

    def feedback_between(self, start: datetime, end: datetime) -> list[dict[str, Any]]:
        """(label predicted, label given) of the feedback that came in with start ≤ at < end."""
        query = (
            sa.select(predictions.c.label.label("predicted"), feedback.c.label.label("given"))
            .join(predictions, predictions.c.prediction_id == feedback.c.prediction_id)
            .where(feedback.c.at >= start, feedback.c.at < end)
        )
        return self._rows(query)

    def record_window(self, *, start: datetime, end: datetime, metrics: Mapping[str, Any]) -> None:
        """The figures of one monitoring window; computed again, they replace the earlier ones."""
        row = {"start": start, "end": end, "metrics": _jsonable(metrics)}
        statement = insert(windows).values(row)
        self._run(statement.on_conflict_do_update(index_elements=["start", "end"], set_={"metrics": row["metrics"]}))

    def windows(self, *, before: datetime, limit: int) -> list[dict[str, Any]]:
        """The newest windows that end at or before `before`, newest first."""
        query = windows.select().where(windows.c.end <= before).order_by(windows.c.end.desc()).limit(limit)
        return self._rows(query)

    def record_alert(self, *, rule: str, severity: str, message: str, window_end: datetime) -> int | None:
        """The new alert's id, or the id of one that was recorded but never delivered, else None: sent once a window."""
        row = {"rule": rule, "severity": severity, "message": message, "window_end": window_end}
        with self._errors(), self._engine.begin() as connection:
            connection.execute(insert(alerts).values(row).on_conflict_do_nothing())
            query = sa.select(alerts.c.id).where(
                alerts.c.rule == rule, alerts.c.window_end == window_end, alerts.c.delivered_at.is_(None)
            )
            found: int | None = connection.execute(query).scalar()
        return found

    def mark_delivered(self, alert_id: int) -> None:
        self._run(alerts.update().where(alerts.c.id == alert_id).values(delivered_at=sa.func.now()))

    def alerts(self, *, limit: int = 100) -> list[dict[str, Any]]:
        """The newest alerts, newest first."""
        return self._rows(alerts.select().order_by(alerts.c.id.desc()).limit(limit))

    @contextmanager
    def promotion_lock(self, model: str) -> Iterator[Callable[[], None]]:
        """Held by one promoter of this model at a time, over all hosts; freed when its connection ends.

        What it yields raises ServiceUnavailable once the lock is lost: call it directly before each write under it.
        """
        with self._errors():
            connection = self._engine.connect()
        try:
            with self._errors():
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": model})
            yield partial(_check_held, connection, model)
        finally:
            _release(connection, model)

    def close(self) -> None:
        self._engine.dispose()

    def _run(self, statement: sa.Executable, parameters: list[dict[str, Any]] | None = None) -> None:
        with self._errors(), self._engine.begin() as connection:
            connection.execute(statement, parameters)

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self._errors(), self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            raise _unavailable(error) from error


def migrate(url: str) -> None:
    """Bring the schema `tire` to this version's shape. Safe to repeat and to call from several processes at once."""
    from alembic import command  # noqa: PLC0415  (the server never migrates and need not load it)
    from alembic.config import Config  # noqa: PLC0415

    engine = _engine(url, poolclass=sa.pool.NullPool)
    config = Config()
    config.set_main_option("script_location", str(files("tire_pipeline.stores") / "migrations"))
    try:
        with engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7461726500)"))
            connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except OperationalError as error:
        raise _unavailable(error) from error


def _check_held(connection: sa.Connection, model: str) -> None:
    """The transaction that took the lock keeps it to its end, so that any answer from within it is proof."""
    try:
        connection.execute(sa.text("SELECT 1"))
    except (OperationalError, InterfaceError, PendingRollbackError) as error:
        raise ServiceUnavailable(
            f"The lock on {model}'s promotions was lost with its connection to the ledger (PostgreSQL), and another "
            "promoter may hold it now. What was not moved yet stays where it is; repeat the command."
        ) from error


def _release(connection: sa.Connection, model: str) -> None:
    """End the transaction. An error here undoes nothing of what was done under the lock, and so it is only logged."""
    try:
        connection.close()
    except (OperationalError, InterfaceError) as error:
        log.warning("the connection that held the lock on %s's promotions had died: %s", model, one_line(error))


def _engine(url: str, **options: Any) -> sa.Engine:
    try:
        return sa.create_engine(url, connect_args={"connect_timeout": 5}, **options)
    except ArgumentError:  # its text may hold the password
        raise InputError(
            "TIRE_LEDGER_URL is no address of a PostgreSQL database; it looks like postgresql+psycopg2://USER:"
            "PASSWORD@HOST:5432/DATABASE."
        ) from None


def _jsonable(value: Any) -> Any:
    """JSON as PostgreSQL takes it: it knows neither NaN nor infinity, which become words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    return [_jsonable(v) for v in value] if isinstance(value, (list, tuple)) else value


def _unavailable(error: DBAPIError) -> ServiceUnavailable:
    first_line = str(error.orig).strip().splitlines()[0]
    return ServiceUnavailable(
        f"The ledger (PostgreSQL) did not answer: {first_line}. `tire status` tells whether it runs; "
        "TIRE_LEDGER_URL is the address."
    )
