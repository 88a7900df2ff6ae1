"""Starts the serving process: `tire serve`."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fastapi import FastAPI

from tire_pipeline.errors import InputError
from tire_pipeline.serving.alias import alias_target
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.bundles import BundleCache, Target
from tire_pipeline.serving.capture import Capture
from tire_pipeline.serving.connections import build_server
from tire_pipeline.serving.follower import Follower
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import ModelSlot, load_model
from tire_pipeline.serving.spool import Spool
from tire_pipeline.serving.trial import Trial
from tire_pipeline.settings import Settings
from tire_pipeline.wiring import reach_loopback_directly

log = logging.getLogger(__name__)

DRAIN_S = 20


def serve(settings: Settings, *, host: str = "127.0.0.1", port: int = 8000, bundle: Path | None = None) -> None:
    """Answer until SIGTERM or SIGINT, then finish what was accepted, write what was predicted, and return.

    With `bundle` that folder answers, as version 0: nothing is followed and nothing is recorded, so that trying a
    candidate leaves no trace in monitoring. Raises InputError when the folder is no good bundle.
    """
    reach_loopback_directly()
    app = bundle_app(settings, bundle) if bundle else production_app(settings)
    server = build_server(app, limits=Limits(), host=host, port=port, timeout_graceful_shutdown=DRAIN_S)
    # For a signal before uvicorn listens to any, and for the one that it raises again at the end, which would turn a
    # clean stop into exit code 143.
    signal.signal(signal.SIGTERM, server.handle_exit)
    gc.collect()
    gc.freeze()  # what is there by now stays; searching it for garbage held up answers for 100 ms
    log.info("Serving %s on http://%s:%d", settings.project, host, port)
    server.run()


def bundle_app(settings: Settings, bundle: Path) -> FastAPI:
    """An application for one bundle on disk."""
    metrics = ServingMetrics()
    slot = ModelSlot(settings.project, metrics)
    slot.swap(load_model(bundle, threads=_cores()))
    return create_app(slot, metrics=metrics, api_keys=settings.api_key_digests, threads=_cores())


def production_app(settings: Settings) -> FastAPI:
    """An application that follows the alias `production`, and beside it `TIRE_SHADOW_ALIAS`. Contacts nothing until it
    is started."""
    if not settings.mlflow_url:
        raise InputError(
            "TIRE_MLFLOW_URL is not set, so there is no alias to follow. Set it, or serve a folder with --bundle DIR."
        )
    metrics = ServingMetrics()
    slot = ModelSlot(settings.project, metrics)
    folder = settings.home / "serving"
    cache = BundleCache(folder, project=settings.project, download=partial(_download, settings))
    target = partial(alias_target, settings.mlflow_url, settings.project)
    followers = [
        Follower(slot, cache, target=partial(target, alias="production"), metrics=metrics, threads=_cores()),
    ]
    trial = None
    if settings.shadow_alias != "off":
        trial = Trial(
            ModelSlot(settings.project, metrics, info=metrics.challenger),
            metrics=metrics,
            weight=settings.canary_weight,
            note=folder / "returned.json",
        )
        followers.append(_challenger(trial, slot, cache, target=target, settings=settings, metrics=metrics))
    capture = _capture(settings, folder / "spool", metrics)
    return create_app(
        slot,
        metrics=metrics,
        capture=capture,
        followers=followers,
        trial=trial,
        api_keys=settings.api_key_digests,
        threads=_cores(),
    )


def _challenger(
    trial: Trial,
    champion: ModelSlot,
    cache: BundleCache,
    *,
    target: Callable[..., Target | None],
    settings: Settings,
    metrics: ServingMetrics,
) -> Follower:
    """Keeps the trial at the model of the second alias, unless that is the champion itself."""

    def other_than_champion() -> Target | None:
        found = target(alias=settings.shadow_alias)
        serving = champion.current.bundle.digest if champion.current else None
        return found if found and serving and found.digest != serving else None

    return Follower(
        trial.slot,
        cache,
        target=other_than_champion,
        metrics=metrics,
        threads=_cores() if settings.canary_weight else 1,  # in the shadow it must leave the cores to the champion
        alias=settings.shadow_alias,
        keeps=False,
    )


def _download(settings: Settings, prefix: str, folder: Path) -> None:
    from tire_pipeline.stores import objects  # noqa: PLC0415 - boto3 is for downloads only

    objects.connect(settings).download_folder(prefix, folder)


def _capture(settings: Settings, folder: Path, metrics: ServingMetrics) -> Capture | None:
    if settings.ledger_url is None:
        log.warning("TIRE_LEDGER_URL is not set: predictions and feedback are not kept")
        return None
    from tire_pipeline.stores.ledger import Ledger  # noqa: PLC0415 - sqlalchemy too

    return Capture(Ledger(settings.ledger_url.get_secret_value()), Spool(folder), metrics=metrics)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
