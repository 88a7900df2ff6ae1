"""Live services for a step that was given none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tire_pipeline.wiring import Services


def live(given: Services | None) -> Services:
    """The services given, else those of the environment."""
    from tire_pipeline.wiring import services

    return given or services()
