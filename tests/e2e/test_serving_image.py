"""The serving check on a real Docker engine, with the very image that is deployed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.api import APIClient

from tests.e2e.engine import needs_image
from tests.integration.servers import make_bundle
from tire_pipeline.errors import GateRefused
from tire_pipeline.evaluation.checked_server import ServingImage
from tire_pipeline.evaluation.serving_check import ServingLimits, check_answers, check_load, serving
from tire_pipeline.stores.containers import Containers

NAME = "tire-serving:latest"

pytestmark = needs_image(NAME, how="`make images`")


@pytest.fixture(scope="module")
def engine() -> Iterator[APIClient]:
    client = APIClient()
    yield client
    client.close()


@pytest.fixture
def image(engine: APIClient) -> Iterator[ServingImage]:
    """The image on a network of its own, with which its containers must have gone."""
    network = f"tire-test-{secrets.token_hex(4)}"
    engine.create_network(network, driver="bridge")
    try:
        yield ServingImage(NAME, network, Containers(engine, deployment=network), task={})
        assert not engine.inspect_network(network)["Containers"]
    finally:
        engine.remove_network(network)


def test_the_deployed_image_answers_for_a_good_bundle_within_its_limits(image: ServingImage, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", gain=1).path
    with serving(folder, log_file=tmp_path / "log", image=image) as (bundle, server):
        assert check_answers(bundle, server)["max_difference"] < 1e-5
        assert 10 < check_load(bundle, server, ServingLimits(p95_ms=5000))["memory_mb"] < 500
        with pytest.raises(GateRefused, match="memory_mb"):
            check_load(bundle, server, ServingLimits(p95_ms=5000, memory_mb=5))


def test_the_deployed_image_refuses_a_bundle_that_lies_and_says_why(image: ServingImage, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", gain=1, lie=0.2).path
    with (
        pytest.raises(GateRefused, match=r"ended with 2 .* 0\.2 off what it promises"),
        serving(folder, log_file=tmp_path / "log", image=image),
    ):
        pass
