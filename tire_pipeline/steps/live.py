"""Live services for a step that was given none, and what follows from their settings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tire_pipeline.bundle import Bundle
    from tire_pipeline.datasets.cache import ImageCache
    from tire_pipeline.wiring import Services


def live(given: Services | None) -> Services:
    """The services given, else those of the environment."""
    from tire_pipeline.wiring import services

    return given or services()


@contextmanager
def loading(module: str) -> Iterator[None]:
    """Import a module that takes seconds while something else is waited for."""
    with ThreadPoolExecutor(1, thread_name_prefix="import") as thread:
        imported = thread.submit(import_module, module)
        yield
        imported.result()


def image_cache(s: Services) -> ImageCache:
    """This host's decoded images."""
    from tire_pipeline.datasets.cache import ImageCache

    return ImageCache(s.settings.cache, s.settings.cache_max_bytes)


@contextmanager
def stored_bundle(s: Services, prefix: str) -> Iterator[Bundle]:
    """The bundle below `prefix` of the bucket, on the disk for as long as it is needed."""
    from tire_pipeline.bundle import Bundle

    with tempfile.TemporaryDirectory(prefix="tire-bundle-") as tmp:
        yield Bundle.load(s.objects.download_folder(prefix, Path(tmp)))
