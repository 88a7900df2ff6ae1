"""What the server tells Prometheus. Each app has a registry of its own, so that tests and apps do not share counts."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DURATIONS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
DIFFERENCES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class ServingMetrics:
    """The counters of one server. Safe from any thread."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "inference_requests", "Inference requests answered", ["version", "code"], registry=registry
        )
        self.images = Counter("inference_images", "Images by outcome", ["version", "outcome"], registry=registry)
        self.retakes = Counter("inference_retakes", "Pictures not fit to be judged, by why", ["why"], registry=registry)
        self.duration_s = Histogram(
            "inference_duration_seconds", "Request to answer", buckets=DURATIONS_S, registry=registry
        )
        self.batch_size = Histogram(
            "inference_batch_size",
            "Images run through the model at once",
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self.in_flight = Gauge("inference_queue_depth", "Images admitted and not answered yet", registry=registry)
        self.model = Gauge(
            "model_info",
            "1 for the model that answers",
            ["project", "version", "digest", "candidate"],
            registry=registry,
        )
        self.challenger = Gauge(
            "challenger_info",
            "1 for the model that is scored in the shadow",
            ["project", "version", "digest", "candidate"],
            registry=registry,
        )
        self.shadow = Counter(
            "shadow_images", "Pictures that both models scored, by outcome", ["version", "outcome"], registry=registry
        )
        self.shadow_difference = Histogram(
            "shadow_difference", "Largest difference in a probability", buckets=DIFFERENCES, registry=registry
        )
        self.shadow_duration_s = Histogram(
            "shadow_duration_seconds", "Scoring one picture in the shadow", buckets=DURATIONS_S, registry=registry
        )
        self.canary_weight = Gauge("canary_weight", "Share of requests the challenger answers now", registry=registry)
        self.canary_returned = Counter(
            "canary_returned", "Challengers sent back to the shadow", ["version", "limit"], registry=registry
        )
        self.refused = Counter("model_refused", "Bundles that failed their checks", registry=registry)
        self.capture_queue = Gauge("capture_queue_depth", "Predictions not written yet", registry=registry)
        self.capture_spooled = Counter("capture_spooled", "Predictions kept on disk for later", registry=registry)
        self.capture_dropped = Counter("capture_dropped", "Predictions that could not be kept", registry=registry)


class CountRequests:
    """ASGI middleware: counts and times the inference requests that `is_inference` picks by path.

    The handler names the version that answered in `scope["state"]["model_version"]`; refused requests have `none`.
    """

    def __init__(self, app: ASGIApp, metrics: ServingMetrics, is_inference: Callable[[str], bool]) -> None:
        self.app, self.metrics, self.is_inference = app, metrics, is_inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not self.is_inference(scope["path"]):
            await self.app(scope, receive, send)
            return
        code, started = 500, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            version = scope.get("state", {}).get("model_version", "none")
            self.metrics.requests.labels(version, code).inc()
            self.metrics.duration_s.observe(time.perf_counter() - started)
