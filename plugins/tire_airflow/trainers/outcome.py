"""How a trainer ended, in Airflow's terms, and what it said until then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from tire_airflow.tasks import keep_reason
from tire_pipeline.errors import OutOfResources, ServiceUnavailable

RETRYABLE = (ServiceUnavailable.exit_code, OutOfResources.exit_code)
LINE_MAX_BYTES = 16_384
SHOWN_PER_S, SHOWN_AT_ONCE = 5.0, 200


def raise_for(code: int, lines: Sequence[str]) -> None:
    """The trainer's exit code as Airflow's exception: only what may pass by itself is retried.

    A trainer that a signal ended (a negative code of a process, over 128 in a container) did nothing wrong.
    """
    reason = next((line.removeprefix("error ") for line in reversed(lines) if line.startswith("error ")), "")
    reason = reason or f"the trainer ended with code {code}: {lines[-1] if lines else 'it said nothing'}"
    keep_reason(reason)
    passing = code in RETRYABLE or code < 0 or code > 128
    raise (AirflowException if passing else AirflowFailException)(reason)


class Relay:
    """Passes a trainer's lines on to the task's log, as many as a person can read; the last twenty are kept.

    Holds no more than that however long the training is. A burst of SHOWN_AT_ONCE lines is shown, then SHOWN_PER_S; how
    many were left out is said. `clock` gives seconds.
    """

    def __init__(self, log: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self.last: deque[str] = deque(maxlen=20)
        self._allowance, self._at, self._left_out = float(SHOWN_AT_ONCE), clock(), 0

    def __call__(self, line: str) -> None:
        self.last.append(line)
        now = self._clock()
        self._allowance = min(SHOWN_AT_ONCE, self._allowance + (now - self._at) * SHOWN_PER_S)
        self._at = now
        if self._allowance < 1:
            self._left_out += 1
            return
        self._allowance -= 1
        self.close()
        self._log.info("%s", line)

    def close(self) -> None:
        """Say how many lines were left out since the last one that was shown."""
        if self._left_out:
            self._log.info("… %d lines left out: the trainer says more than %g a second", self._left_out, SHOWN_PER_S)
            self._left_out = 0


def whole_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines of a stream that is cut anywhere. A carriage return ends one too: a progress bar is many lines.

    No more than a line is held, and of one that does not end no more than LINE_MAX_BYTES.
    """
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        if len(rest) > LINE_MAX_BYTES:
            whole, rest = [*whole, rest], b""
        yield from (line.decode(errors="replace").rstrip() for line in whole if line)
    if rest:
        yield rest.decode(errors="replace").rstrip()
