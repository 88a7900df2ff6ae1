"""Answers requests: decode in a few threads, batch, decide, record.

Legend: B images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np

from tire_pipeline.bundle import Bundle, Floats
from tire_pipeline.errors import TireError
from tire_pipeline.serving.batcher import Batcher
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel
from tire_pipeline.serving.reading import Reading, by_class, decide, read
from tire_pipeline.serving.schemas import ImageAnswer
from tire_pipeline.serving.shadow import Answered, Shadow
from tire_pipeline.serving.trial import Trial

log = logging.getLogger(__name__)

Record = Callable[[dict[str, Any]], None]


class ModelFailed(TireError):
    """The model itself broke on an input that was fine. The server's fault, not the client's."""


@dataclass(frozen=True)
class Upload:
    """One file of a request as it came."""

    filename: str
    data: bytes


@dataclass(frozen=True)
class Scored:
    """One upload read for a model and, where it is a picture, scored by it."""

    model: LoadedModel
    reading: Reading
    p_K: Floats | None


@dataclass(frozen=True)
class Beside:
    """What works for a challenger: its trial, the shadow, and a batcher of its own, so that a slow challenger keeps no
    request of the champion waiting."""

    trial: Trial
    shadow: Shadow
    batcher: Batcher


class OnlinePredictor:
    """Classifies uploads with the model it is given, or with its challenger where that takes a turn. `record` gets a
    ledger row for every image, read or not."""

    def __init__(
        self,
        batcher: Batcher,
        pool: ThreadPoolExecutor,
        *,
        limits: Limits,
        metrics: ServingMetrics,
        record: Record,
        beside: Beside | None = None,
    ) -> None:
        self._batcher, self._pool, self._limits = batcher, pool, limits
        self._metrics, self._record, self._beside = metrics, record, beside

    async def classify(self, champion: LoadedModel, uploads: Sequence[Upload]) -> list[ImageAnswer]:
        """One answer for each upload, in order; all by one model, but for those on which a challenger fails.

        Raises Overloaded before any work, ModelFailed for a broken champion.
        """
        challenger = self._beside.trial.challenger(champion) if self._beside else None
        with self._batcher.admit(len(uploads)):
            if self._beside and challenger and self._beside.trial.takes_turn():
                with self._beside.batcher.admit(len(uploads)):
                    return await self._all(uploads, champion, challenger, by_challenger=True)
            return await self._all(uploads, champion, challenger, by_challenger=False)

    async def infer(self, model: LoadedModel, x_BCHW: Floats) -> Floats:
        """Probabilities (B, K) of prepared images. Raises Overloaded or ModelFailed."""
        with self._batcher.admit(len(x_BCHW)):
            return await self._run(self._batcher, model, x_BCHW)

    async def _all(
        self, uploads: Sequence[Upload], champion: LoadedModel, challenger: LoadedModel | None, *, by_challenger: bool
    ) -> list[ImageAnswer]:
        return list(await asyncio.gather(*(self._classify(u, champion, challenger, by_challenger) for u in uploads)))

    async def _classify(
        self, upload: Upload, champion: LoadedModel, challenger: LoadedModel | None, by_challenger: bool
    ) -> ImageAnswer:
        started, at = time.perf_counter(), datetime.now(UTC)
        scored = None
        if self._beside and challenger and by_challenger:
            scored = await self._by_challenger(self._beside, challenger, upload)
        if scored is None:
            scored = await self._by_champion(champion, upload)
        answer = image_answer(scored, upload.filename)
        picture = scored.reading.picture
        self._metrics.images.labels(scored.model.version, answer.decision or "error").inc()
        if picture and picture.retake:
            self._metrics.retakes.labels(picture.retake.why).inc()
        latency_ms = 1000 * (time.perf_counter() - started)
        self._record(ledger_row(answer, scored.reading, at=at, latency_ms=latency_ms))
        if self._beside and challenger and picture and scored.p_K is not None:
            other = champion if scored.model is challenger else challenger
            self._beside.shadow.offer(
                Answered(answer.prediction_id, upload.data, picture, scored.model, scored.p_K, other, challenger)
            )
        return answer

    async def _by_champion(self, champion: LoadedModel, upload: Upload) -> Scored:
        started = time.perf_counter()
        scored = await self._score(self._batcher, champion, upload)
        if self._beside and scored.reading.picture:
            self._beside.trial.answered(champion, seconds=time.perf_counter() - started)
        return scored

    async def _by_challenger(self, beside: Beside, challenger: LoadedModel, upload: Upload) -> Scored | None:
        """None where it fails: the champion answers then, and the client never knows."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(beside.trial.limits.timeout_s):
                scored = await self._score(beside.batcher, challenger, upload)
        except Exception as error:  # onnxruntime's own exceptions share no base
            log.warning("Version %d failed on a request, the champion answers it: %s", challenger.version, error)
            scored = None
        if scored is None or scored.reading.picture:  # what is no picture says nothing of a model
            beside.trial.answered(challenger, seconds=time.perf_counter() - started, failed=scored is None)
        return scored

    async def _score(self, batcher: Batcher, model: LoadedModel, upload: Upload) -> Scored:
        reading = await self._read(upload.data, model.bundle)
        if reading.picture is None:
            return Scored(model, reading, None)
        return Scored(model, reading, (await self._run(batcher, model, reading.picture.x_CHW[None]))[0])

    async def _read(self, data: bytes, bundle: Bundle) -> Reading:
        return await asyncio.get_running_loop().run_in_executor(self._pool, read, data, bundle, self._limits)

    async def _run(self, batcher: Batcher, model: LoadedModel, x_BCHW: Floats) -> Floats:
        p_BK = await asyncio.wrap_future(batcher.submit(model, x_BCHW))
        if not np.isfinite(p_BK).all():
            raise ModelFailed(f"Model version {model.version} gave probabilities that are no numbers for this input.")
        return p_BK


def image_answer(scored: Scored, filename: str) -> ImageAnswer:
    """What the client is told of one upload."""
    bundle = scored.model.bundle
    answer = ImageAnswer(
        filename=filename,
        prediction_id=str(uuid4()),
        model_version=scored.model.version,
        model_digest=bundle.digest,
        error=scored.reading.error,
    )
    if scored.p_K is not None and (picture := scored.reading.picture):
        answer.label, answer.probability, answer.decision = decide(bundle, picture, scored.p_K)
        answer.reason, answer.retake = ("retake", picture.retake.text) if picture.retake else (None, None)
        answer.probabilities = by_class(bundle, scored.p_K)
    return answer


def ledger_row(answer: ImageAnswer, reading: Reading, *, at: datetime, latency_ms: float) -> dict[str, Any]:
    """The row of table `predictions` for one answered image; what could not be measured is None."""
    picture = reading.picture
    return {
        **answer.model_dump(exclude={"filename", "reason", "retake"}),
        "at": at,
        "latency_ms": latency_ms,
        "sha256": reading.sha256,
        "width": picture and picture.width,
        "height": picture and picture.height,
        "brightness": picture and picture.brightness,
        "sharpness": picture and picture.sharpness,
    }
