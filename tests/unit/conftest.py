from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes import fake_services, object_store
from tire_pipeline.stores.objects import ObjectStore


@pytest.fixture
def store() -> ObjectStore:
    """A bucket in memory."""
    return object_store()[0]


@pytest.fixture
def fake(tmp_path: Path) -> Any:
    """Services in memory."""
    return fake_services(tmp_path / "home")
