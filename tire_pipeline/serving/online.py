"""Answers requests: decode in a few threads, batch, decide, record.

Legend: B images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np

from tire_pipeline.bundle import Floats
from tire_pipeline.errors import TireError
from tire_pipeline.imaging import Preprocessing
from tire_pipeline.serving.batcher import Batcher
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel
from tire_pipeline.serving.reading import Reading, by_class, read
from tire_pipeline.serving.schemas import ImageAnswer

Record = Callable[[dict[str, Any]], None]


class ModelFailed(TireError):
    """The model itself broke on an input that was fine. The server's fault, not the client's."""


@dataclass(frozen=True)
class Upload:
    """One file of a request as it came."""

    filename: str
    data: bytes


class OnlinePredictor:
    """Classifies uploads with the model it is given. `record` gets a ledger row for every image, read or not."""

    def __init__(
        self,
        batcher: Batcher,
        pool: ThreadPoolExecutor,
        *,
        limits: Limits,
        metrics: ServingMetrics,
        record: Record,
    ) -> None:
        self._batcher, self._pool, self._limits = batcher, pool, limits
        self._metrics, self._record = metrics, record

    async def classify(self, model: LoadedModel, uploads: Sequence[Upload]) -> list[ImageAnswer]:
        """One answer for each upload, in order. Raises Overloaded before any work, ModelFailed for a broken model."""
        with self._batcher.admit(len(uploads)):
            return list(await asyncio.gather(*(self._classify(model, upload) for upload in uploads)))

    async def infer(self, model: LoadedModel, x_BCHW: Floats) -> Floats:
        """Probabilities (B, K) of prepared images. Raises Overloaded or ModelFailed."""
        with self._batcher.admit(len(x_BCHW)):
            return await self._run(model, x_BCHW)

    async def _classify(self, model: LoadedModel, upload: Upload) -> ImageAnswer:
        started, at = time.perf_counter(), datetime.now(UTC)
        reading = await self._read(upload.data, model.bundle.preprocessing)
        answer = ImageAnswer(
            filename=upload.filename,
            prediction_id=str(uuid4()),
            model_version=model.version,
            model_digest=model.bundle.digest,
            error=reading.error,
        )
        if reading.picture:
            p_K = (await self._run(model, reading.picture.x_CHW[None]))[0]
            answer.label, answer.probability, answer.decision = model.bundle.decide(p_K)
            answer.probabilities = by_class(model.bundle, p_K)
        self._metrics.images.labels(model.version, answer.decision or "error").inc()
        self._record(ledger_row(answer, reading, at=at, latency_ms=1000 * (time.perf_counter() - started)))
        return answer

    async def _read(self, data: bytes, spec: Preprocessing) -> Reading:
        return await asyncio.get_running_loop().run_in_executor(self._pool, read, data, spec, self._limits)

    async def _run(self, model: LoadedModel, x_BCHW: Floats) -> Floats:
        p_BK = await asyncio.wrap_future(self._batcher.submit(model, x_BCHW))
        if not np.isfinite(p_BK).all():
            raise ModelFailed(f"Model version {model.version} gave probabilities that are no numbers for this input.")
        return p_BK


def ledger_row(answer: ImageAnswer, reading: Reading, *, at: datetime, latency_ms: float) -> dict[str, Any]:
    """The row of table `predictions` for one answered image; what could not be measured is None."""
    picture = reading.picture
    return {
        **answer.model_dump(exclude={"filename"}),
        "at": at,
        "latency_ms": latency_ms,
        "sha256": reading.sha256,
        "width": picture and picture.width,
        "height": picture and picture.height,
        "brightness": picture and picture.brightness,
        "sharpness": picture and picture.sharpness,
    }
