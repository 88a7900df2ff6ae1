"""Keeps a slot at the model that an alias names: looks at the alias, loads beside, checks, swaps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from tire_pipeline.errors import InputError
from tire_pipeline.serving.bundles import BundleCache, Target
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel, ModelSlot, load_model

log = logging.getLogger(__name__)

INTERVAL_S = 2.0
REFUSED_FOR_S = 60.0


class Follower:
    """Polls `target` every `interval_s` in a thread of its own. A bundle that fails its checks is refused: the
    error is logged and counted, the old model goes on, and the same target is not tried again for a minute.

    With `keeps` the last good bundle is remembered on disk, and an alias that is gone changes nothing: the champion.
    Without, the slot is empty while the alias names nothing: the challenger.
    """

    def __init__(
        self,
        slot: ModelSlot,
        cache: BundleCache,
        *,
        target: Callable[[], Target | None],
        metrics: ServingMetrics,
        threads: int = 1,
        interval_s: float = INTERVAL_S,
        alias: str = "production",
        keeps: bool = True,
    ) -> None:
        self._slot, self._cache, self._target = slot, cache, target
        self._metrics, self._threads, self._interval_s = metrics, threads, interval_s
        self._alias, self._keeps = alias, keeps
        self._refused: Target | None = None
        self._refused_until_s = 0.0
        self._trouble = ""
        self._stopped = threading.Event()
        self._unnoted: Target | None = None
        # A daemon: a download that hangs does not hold up the end of the process, and leaves no half bundle.
        self._thread = threading.Thread(target=self._run, name=f"follower-{alias}", daemon=True)

    def start(self) -> None:
        """Load the last good bundle from disk, so that answers need no other service; then follow the alias."""
        try:
            target = self._cache.remembered() if self._keeps else None
            if target and self._cache.path(target.digest).is_dir():
                self._load(target)
        except Exception as error:  # however it is damaged, MLflow and S3 can still give a good one
            log.error("The last good bundle cannot be used, waiting for MLflow: %s", error)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def step(self) -> None:
        """Look once, and load what is new. Raises nothing: what went wrong is logged once and tried again."""
        try:
            target = self._target()
            if target is None and not self._keeps and self._slot.current:
                self._slot.clear()
            if target and self._is_new(target):
                self._follow(target)
            self._note()
            self._trouble = ""
        except Exception as error:  # the thread must outlive whatever MLflow, S3 or the disk come up with
            if str(error) != self._trouble:
                log.warning("The alias `%s` cannot be followed now: %s", self._alias, error)
            self._trouble = str(error)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.step()
            self._stopped.wait(self._interval_s)

    def _is_new(self, target: Target) -> bool:
        current = self._slot.current
        if current and (current.version, current.bundle.digest) == (target.version, target.digest):
            return False
        return target != self._refused or time.monotonic() >= self._refused_until_s

    def _follow(self, target: Target) -> None:
        try:
            self._load(target)
        except InputError as error:
            self._metrics.refused.inc()
            self._refused, self._refused_until_s = target, time.monotonic() + REFUSED_FOR_S
            self._cache.discard(target.digest)
            log.error("Version %d is refused as %s: %s", target.version, self._alias, error)

    def _load(self, target: Target) -> None:
        self._slot.swap(self._loaded(target))
        log.info("Version %d (%s) is %s now", target.version, target.digest[:12], self._alias)
        self._unnoted = target if self._keeps else None
        self._note()

    def _note(self) -> None:
        """Remember what answers; where the disk is full the next step tries again."""
        if self._unnoted:
            self._cache.remember(self._unnoted)
            self._unnoted = None

    def _loaded(self, target: Target) -> LoadedModel:
        current = self._slot.current
        if current and current.bundle.digest == target.digest:  # the same bundle under another version
            return replace(current, version=target.version)
        was_there = self._cache.path(target.digest).is_dir()
        try:
            return load_model(self._cache.fetch(target), version=target.version, threads=self._threads)
        except InputError as error:
            if not was_there:
                raise
            log.warning("What is kept of version %d is no good, so it is fetched again: %s", target.version, error)
            self._cache.discard(target.digest)
        return load_model(self._cache.fetch(target), version=target.version, threads=self._threads)
