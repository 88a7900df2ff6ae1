"""Real stores for the tests: the embedded stack's PostgreSQL, S3 and MLflow, one of each a session, on loopback."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.servers import Production
from tire_pipeline import stack
from tire_pipeline.settings import STACK_ENV, Settings
from tire_pipeline.stores.ledger import migrate
from tire_pipeline.wiring import Services, services


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a running PostgreSQL, S3 and MLflow."""
    home = tmp_path_factory.mktemp("stores") / "home"
    try:
        stack.up(home, parts=("postgres", "s3", "mlflow"), environ={})
        yield Settings(_env_file=home / STACK_ENV)  # type: ignore[call-arg]
    finally:
        stack.down(home)


@pytest.fixture
def live(stores: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Services]:
    """All stores, with a bucket and a project that no other test sees."""
    unique = f"t{zlib.crc32(request.node.nodeid.encode())}"
    made = services(stores.model_copy(update={"home": tmp_path / "home", "project": unique, "bucket": unique}))
    made.objects.ensure_bucket()
    yield made
    made.close()


@pytest.fixture
def production(live: Services, tmp_path: Path) -> Iterator[Production]:
    assert live.settings.ledger_url
    migrate(live.settings.ledger_url.get_secret_value())
    with ExitStack() as stack:
        yield Production(live, tmp_path, stack)
