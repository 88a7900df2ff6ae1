"""Live services for a step that was given none, and what follows from their settings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tire_pipeline.errors import InputError

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
def registered_bundle(s: Services, tags: Mapping[str, str]) -> Iterator[Bundle]:
    """The bundle of a version with these tags. InputError where another lies in its place."""
    with stored_bundle(s, tags["tire.bundle"]) as bundle:
        check_digest(bundle, tags)
        yield bundle


def check_digest(bundle: Bundle, tags: Mapping[str, str]) -> None:
    """Raises InputError for another bundle than that which a version with these tags was registered with."""
    if bundle.digest != (registered := tags["tire.bundle_digest"]):
        raise InputError(
            f"Below {tags['tire.bundle']} lies the bundle {bundle.digest[:12]}, but the version was registered with "
            f"{registered[:12]}: it was overwritten. Train and register again."
        )


@contextmanager
def stored_bundle(s: Services, prefix: str) -> Iterator[Bundle]:
    """The bundle below `prefix` of the bucket, on the disk for as long as it is needed."""
    from tire_pipeline.bundle import Bundle

    with tempfile.TemporaryDirectory(prefix="tire-bundle-") as tmp:
        yield Bundle.load(s.objects.download_folder(prefix, Path(tmp)))
