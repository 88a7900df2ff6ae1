"""Writes predictions to the ledger behind the requests' back; a request never waits for PostgreSQL."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from tire_pipeline.errors import OutOfResources
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.spool import Row, Spool

log = logging.getLogger(__name__)

CAPACITY = 10_000
BATCH_ROWS = 500
INTERVAL_S = 0.25
RETRY_S = 5.0
CLOSE_TIMEOUT_S = 8.0  # below the 10 s that Docker leaves between SIGTERM and SIGKILL


class PredictionLedger(Protocol):
    """The part of `stores.ledger.Ledger` that serving needs."""

    def record_predictions(self, rows: Sequence[Row]) -> None: ...
    def record_feedback(self, prediction_id: str, label: str, source: str) -> None: ...


class Capture:
    """A bounded queue and one writer thread. Rows the ledger does not take go to the spool and are replayed later.

    A row may be written twice (a replay that was cut off); the ledger ignores a `prediction_id` that it has.
    """

    def __init__(
        self,
        ledger: PredictionLedger,
        spool: Spool,
        *,
        metrics: ServingMetrics,
        capacity: int = CAPACITY,
        retry_s: float = RETRY_S,
    ) -> None:
        self.ledger, self._spool, self._metrics = ledger, spool, metrics
        self._capacity, self._retry_s = capacity, retry_s
        self._changed = threading.Condition()
        self._rows: deque[Row] = deque()
        self._writing: list[Row] = []
        self._num_accepted = self._num_handled = 0
        self._closing = False
        self._away_until_s = 0.0
        self._replay_due = True  # what an earlier process left
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def record(self, row: Row) -> None:
        """Take one row; never waits for the ledger or the disk. Over `capacity` the row is dropped and counted."""
        with self._changed:
            if len(self._rows) >= self._capacity:
                self._metrics.capture_dropped.inc()
                return
            self._rows.append(row)
            self._num_accepted += 1
            self._metrics.capture_queue.set(len(self._rows))
            if len(self._rows) >= BATCH_ROWS:
                self._changed.notify_all()

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until all rows taken so far are in the ledger or on disk; whether that came in time."""
        with self._changed:
            target = self._num_accepted
            return self._changed.wait_for(lambda: self._num_handled >= target, timeout_s)

    def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is left. Where the ledger hangs for longer than `timeout_s`, it goes to disk."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            beside = Spool(self._spool.folder)
            with self._changed:
                self._keep([*self._writing, *self._rows], beside)
            beside.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or len(self._rows) >= BATCH_ROWS, INTERVAL_S)
                self._writing = [self._rows.popleft() for _ in range(min(BATCH_ROWS, len(self._rows)))]
                self._metrics.capture_queue.set(len(self._rows))
                if self._closing and not self._writing:
                    break
            self._write(self._writing)
            with self._changed:
                self._num_handled += len(self._writing)
                self._writing = []
                self._changed.notify_all()
            self._replay()
        self._spool.close()

    def _write(self, rows: list[Row]) -> None:
        if rows and not (self._ledger_is_there() and self._try(lambda: self.ledger.record_predictions(rows))):
            self._keep(rows, self._spool)

    def _keep(self, rows: list[Row], spool: Spool) -> None:
        try:
            spool.append(rows)
        except OutOfResources as error:
            self._metrics.capture_dropped.inc(len(rows))
            log.error("%d predictions are lost: %s", len(rows), error)
        else:
            self._metrics.capture_spooled.inc(len(rows))
            self._replay_due = True

    def _replay(self) -> None:
        """One file of the spool, so that fresh rows are not kept waiting by a long backlog."""
        if self._replay_due and self._ledger_is_there() and not self._closing:
            self._try(self._replay_file)

    def _replay_file(self) -> None:
        self._replay_due = self._spool.replay_file(self.ledger.record_predictions)

    def _ledger_is_there(self) -> bool:
        return time.monotonic() >= self._away_until_s

    def _try(self, use_ledger: Callable[[], None]) -> bool:
        try:
            use_ledger()
        except Exception as error:  # a driver's own errors too: the rows are safe on disk, and answering goes on
            if not self._away_until_s:
                log.warning("Predictions are kept on disk until the ledger takes them: %s", error)
            self._away_until_s = time.monotonic() + self._retry_s
            return False
        self._away_until_s = 0.0
        return True
