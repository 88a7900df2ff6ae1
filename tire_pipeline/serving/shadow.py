"""Scores in the background, with a second model, pictures that were answered already. Costs a request nothing but the
handing over: one thread at the lowest priority, which works only while no request is under way.

Legend: C channels, H height, W width, K classes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from tire_pipeline.bundle import Bundle, Floats
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel
from tire_pipeline.serving.reading import Picture, decide, read
from tire_pipeline.serving.trial import Trial

log = logging.getLogger(__name__)

CAPACITY = 64
HELD_BYTES_MAX = 64 * 2**20
LOOK_S = 0.002


@dataclass(frozen=True)
class Answered:
    """A picture and what was answered for it: `by` gave `p_K` on `picture`, read from `data`, and `other` is to score
    it too. One of the two is `challenger`.
    """

    prediction_id: str
    data: bytes
    picture: Picture
    by: LoadedModel
    p_K: Floats
    other: LoadedModel
    challenger: LoadedModel

    @property
    def num_bytes(self) -> int:
        return self.picture.x_CHW.nbytes + len(self.data)


class Shadow:
    """Has the other of two models score what one has answered, and tells the trial. Over `CAPACITY` pictures or
    `HELD_BYTES_MAX` of them a picture is left out and counted.
    """

    def __init__(self, trial: Trial, *, limits: Limits, metrics: ServingMetrics, is_idle: Callable[[], bool]) -> None:
        self._trial, self._limits, self._metrics, self._is_idle = trial, limits, metrics, is_idle
        self._changed = threading.Condition()
        self._waiting: deque[Answered] = deque()
        self._held_bytes = 0
        self._closing = self._working = False
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, answered: Answered) -> None:
        """Take a picture to be scored; never waits."""
        with self._changed:
            if len(self._waiting) >= CAPACITY or self._held_bytes + answered.num_bytes > HELD_BYTES_MAX:
                self._metrics.shadow.labels(answered.challenger.version, "left_out").inc()
                return
            self._waiting.append(answered)
            self._held_bytes += answered.num_bytes
            self._changed.notify_all()

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until nothing is waiting any more; whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._working, timeout_s)

    def close(self) -> None:
        """Forget what waits, and end."""
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting)
                if self._closing:
                    return
                self._working = self._is_idle()
                answered = self._waiting.popleft() if self._working else None
            if answered is None:
                time.sleep(LOOK_S)
                continue
            self._score(answered)
            with self._changed:
                self._held_bytes -= answered.num_bytes
                self._working = False
                self._changed.notify_all()

    def _score(self, answered: Answered) -> None:
        started, other = time.perf_counter(), answered.other
        try:
            picture = self._picture(answered)
            q_K = other.session.probabilities(picture.x_CHW[None])[0]
            if not np.isfinite(q_K).all():
                raise ValueError("probabilities that are no numbers")
        except Exception as error:  # whatever the other model does to a picture must stay here
            self._metrics.shadow.labels(answered.challenger.version, "failed").inc()
            log.warning("Version %d failed on prediction %s: %s", other.version, answered.prediction_id, error)
            return
        self._metrics.shadow_duration_s.observe(time.perf_counter() - started)
        given, would = (
            decide(model.bundle, seen, p_K)[2]
            for model, seen, p_K in ((answered.by, answered.picture, answered.p_K), (other, picture, q_K))
        )
        if given != would:
            log.info(
                "Prediction %s: version %d decided %s, version %d would decide %s",
                *(answered.prediction_id, answered.by.version, given, other.version, would),
            )
        self._trial.compared(
            answered.challenger,
            different=given != would,
            difference=difference(answered.by.bundle, answered.p_K, other.bundle, q_K),
        )

    def _picture(self, answered: Answered) -> Picture:
        one, other = answered.by.bundle, answered.other.bundle
        if (one.preprocessing, one.input_gate) == (other.preprocessing, other.input_gate):
            return answered.picture
        picture = read(answered.data, other, self._limits).picture
        if picture is None:
            raise ValueError("the picture cannot be read again")
        return picture


def difference(one: Bundle, p_K: Floats, other: Bundle, q_K: Floats) -> float:
    """The largest difference in the probability of a class that both models know; 1 where they share none."""
    shared = [name for name in one.classes if name in other.classes]
    gaps = [abs(float(p_K[one.classes.index(c)]) - float(q_K[other.classes.index(c)])) for c in shared]
    return max(gaps, default=1.0)
