"""The live objects of one server, handed to its routes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.serving.batcher import Batcher
from tire_pipeline.serving.capture import Capture
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel, ModelSlot
from tire_pipeline.serving.occlusion import Explainer
from tire_pipeline.serving.online import Beside, OnlinePredictor
from tire_pipeline.serving.shadow import Shadow
from tire_pipeline.serving.spool import Row
from tire_pipeline.serving.trial import Trial


class NoModel(ServiceUnavailable):
    """Nothing is in production yet, or its first bundle is still on the way."""


@dataclass(frozen=True)
class Service:
    """`capture` is None for a server without a ledger: it answers, and keeps nothing."""

    slot: ModelSlot
    limits: Limits
    metrics: ServingMetrics
    pool: ThreadPoolExecutor
    batcher: Batcher
    predictor: OnlinePredictor
    explainer: Explainer
    capture: Capture | None
    beside: Beside | None

    def model(self) -> LoadedModel:
        """The model that answers now. Raises NoModel."""
        if self.slot.current is None:
            raise NoModel(
                f"No model is in production yet; promote one of {self.slot.project} with `tire produce METRIC`, and it "
                "answers here within seconds."
            )
        return self.slot.current

    def close(self) -> None:
        """Answer what was admitted, then write what was predicted. Blocks for at most the capture's close timeout."""
        self.batcher.close()
        if self.beside:
            self.beside.batcher.close()
            self.beside.shadow.close()
        self.pool.shutdown()
        if self.capture:
            self.capture.close()


def build_service(
    slot: ModelSlot,
    *,
    limits: Limits,
    metrics: ServingMetrics,
    capture: Capture | None,
    trial: Trial | None,
    threads: int,
) -> Service:
    """Start the batcher's worker, `threads` decoding threads, and what a `trial` needs."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    batcher = Batcher(limits, observe_batch=metrics.batch_size.observe, observe_depth=metrics.in_flight.set)
    record = capture.record if capture else _forget
    beside = _beside(trial, batcher, limits, metrics) if trial else None
    predictor = OnlinePredictor(batcher, pool, limits=limits, metrics=metrics, record=record, beside=beside)
    return Service(slot, limits, metrics, pool, batcher, predictor, Explainer(predictor), capture, beside)


def _beside(trial: Trial, batcher: Batcher, limits: Limits, metrics: ServingMetrics) -> Beside:
    shadow = Shadow(trial, limits=limits, metrics=metrics, is_idle=lambda: batcher.idle)
    own = Batcher(limits, observe_batch=metrics.batch_size.observe, observe_depth=lambda _: None)
    return Beside(trial, shadow, own)


def _forget(row: Row) -> None:
    """A server without a ledger keeps no predictions."""
