"""Dynamic micro-batching: one worker thread runs the model over whatever images came in together.

Legend: B images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from tire_pipeline.bundle import Floats
from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.model import LoadedModel


class Overloaded(ServiceUnavailable):
    """As many images as the server takes at once are already being worked on. Safe to retry in a second."""


@dataclass(frozen=True)
class _Job:
    model: LoadedModel
    x_BCHW: Floats
    answer: Future[Floats] = field(default_factory=Future)


class Batcher:
    """Runs jobs in order, those of one model together, at most `max_batch` images at once: a larger job in parts.

    A batch waits up to `max_wait_s` for more, but only while admitted images are still on their way: a lone request
    is run at once. `admit` is for the event loop's thread; `submit` may be called from any.
    """

    def __init__(
        self, limits: Limits, *, observe_batch: Callable[[int], None], observe_depth: Callable[[int], None]
    ) -> None:
        self._limits, self._observe_batch, self._observe_depth = limits, observe_batch, observe_depth
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._in_flight = 0
        self._worker = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._worker.start()

    @property
    def full(self) -> bool:
        """Not one more image would be admitted: a request can be refused before its body is read."""
        return self._in_flight >= self._limits.max_in_flight

    @property
    def idle(self) -> bool:
        """No image is under way."""
        return self._in_flight == 0

    @contextmanager
    def admit(self, num_images: int) -> Iterator[None]:
        """Room for `num_images` while the block runs. Raises Overloaded: all of a request are taken, or none."""
        if self._in_flight + num_images > self._limits.max_in_flight:
            raise Overloaded(f"The server is busy with {self._in_flight} images; try again in a second.")
        self._add(num_images)
        try:
            yield
        finally:
            self._add(-num_images)

    def submit(self, model: LoadedModel, x_BCHW: Floats) -> Future[Floats]:
        """The calibrated probabilities (B, K) that `model` itself will give."""
        job = _Job(model, x_BCHW)
        self._jobs.put(job)
        return job.answer

    def close(self) -> None:
        """Answer all that was submitted, then end the worker."""
        self._jobs.put(None)
        self._worker.join()

    def _add(self, num_images: int) -> None:
        self._in_flight += num_images
        self._observe_depth(self._in_flight)

    def _run(self) -> None:
        job = self._jobs.get()
        while job is not None:
            batch, job = self._collect(job)
            self._answer(batch)
            job = job or self._jobs.get()

    def _collect(self, first: _Job) -> tuple[list[_Job], _Job | None]:
        """A batch of the first job's model, and the job that did not fit if there was one."""
        batch, size = [first], len(first.x_BCHW)
        deadline = time.monotonic() + self._limits.max_wait_s
        while size < min(self._limits.max_batch, self._in_flight):
            try:
                job = self._jobs.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # the worker ends after this batch
                break
            if job.model is not first.model or size + len(job.x_BCHW) > self._limits.max_batch:
                return batch, job
            batch.append(job)
            size += len(job.x_BCHW)
        return batch, None

    def _answer(self, batch: list[_Job]) -> None:
        jobs = [job for job in batch if job.answer.set_running_or_notify_cancel()]
        if not jobs:
            return
        try:
            p_BK = self._probabilities(jobs[0].model, np.concatenate([job.x_BCHW for job in jobs]))
        except Exception as error:  # onnxruntime's own exceptions share no base; each caller gets it
            for job in jobs:
                job.answer.set_exception(error)
            return
        ends = np.cumsum([len(job.x_BCHW) for job in jobs])
        for job, part_BK in zip(jobs, np.split(p_BK, ends[:-1]), strict=True):
            job.answer.set_result(part_BK)

    def _probabilities(self, model: LoadedModel, x_BCHW: Floats) -> Floats:
        parts_BK = []
        for start in range(0, len(x_BCHW), self._limits.max_batch):
            part_BCHW = x_BCHW[start : start + self._limits.max_batch]
            self._observe_batch(len(part_BCHW))
            parts_BK.append(model.session.probabilities(part_BCHW))
        return np.concatenate(parts_BK)
