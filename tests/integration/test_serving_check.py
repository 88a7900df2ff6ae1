"""The serving check with the real server: what it lets pass, and each thing that it refuses."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from tests.integration.engine import NETWORK, Engine
from tests.integration.servers import RED, make_bundle
from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import GateRefused, ServiceUnavailable
from tire_pipeline.evaluation.checked_server import ServingImage
from tire_pipeline.evaluation.serving_check import Server, ServingLimits, answers, check_answers, check_load, serving
from tire_pipeline.imaging import encode_jpeg, encode_png
from tire_pipeline.stores.containers import Containers


@pytest.fixture(autouse=True)
def behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers nothing, and that no variable exempts this host from."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_a_good_bundle_passes_with_its_figures_unless_it_takes_too_long_or_too_much(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "bundle", gain=1.0)
    with serving(made.path, log_file=tmp_path / "server.log") as (bundle, server):
        figures = check_answers(bundle, server) | check_load(bundle, server, ServingLimits())
        given = answers(bundle, server, [encode_png(RED), encode_jpeg(RED)] * 12)
        for limits, said in (
            (ServingLimits(p95_ms=0.01), r"\(p95_ms\)"),
            (ServingLimits(memory_mb=1), r"\(memory_mb\)"),
        ):
            with pytest.raises(GateRefused, match=said):
                check_load(bundle, server, limits)
    assert figures["max_difference"] < 1e-5
    assert 0 < figures["median_ms"] <= figures["p95_ms"]
    assert figures["memory_mb"] > 20
    assert given.p_NK.shape == (24, 2) and given.places == list(range(24))
    assert given.p_NK[0] == pytest.approx(given.p_NK[2])
    assert given.decisions == [("defective", "defective")] * 24
    assert server.started.ended() == "0"


def test_a_server_that_dies_while_it_is_asked_is_a_refusal(tmp_path: Path) -> None:
    """As the kernel ends one that takes too much memory."""
    made = make_bundle(tmp_path / "bundle", gain=1.0)

    def kill_and_ask(bundle: Bundle, server: Server) -> None:
        (child,) = (p for p in psutil.Process().children() if "serve" in p.cmdline())
        child.kill()
        while not server.started.ended():
            time.sleep(0.01)
        check_load(bundle, server, ServingLimits())

    with (
        pytest.raises(GateRefused, match="The server ended with -9 while it was asked"),
        serving(made.path, log_file=tmp_path / "server.log") as (bundle, server),
    ):
        kill_and_ask(bundle, server)


def test_a_server_that_is_stopped_as_soon_as_it_says_that_it_serves_ends_well(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "bundle", gain=1.0)
    command = [sys.executable, "-m", "tire_pipeline", "--verbose", "serve", "--bundle", str(made.path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as server:
        assert server.stderr
        next(line for line in server.stderr if b"Serving" in line)
        server.terminate()
        server.stderr.read()
        assert server.wait(30) == 0


def corrupt(bundle: Bundle) -> None:
    data = bytearray((bundle.path / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / "model.onnx").write_bytes(data)


def empty_record(bundle: Bundle) -> None:
    (bundle.path / "bundle.json").write_text('{"format": 1}')


def no_number(bundle: Bundle) -> None:
    """A model that was good when its golden answers were taken, and answers NaN now."""
    model = onnx.load(bundle.path / "model.onnx")
    (weights,) = (w for w in model.graph.initializer if w.name == "weights")
    weights.CopyFrom(helper.make_tensor("weights", TensorProto.FLOAT, weights.dims, np.full(6, np.nan)))
    onnx.save(model, bundle.path / "model.onnx")
    bundle.save()


def wrong_shape(bundle: Bundle) -> None:
    """A model for pictures of another size than the bundle says."""
    model = onnx.load(bundle.path / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 99
    onnx.save(model, bundle.path / "model.onnx")
    bundle.save()


def lying(bundle: Bundle) -> None:
    golden = {name: [1 - p for p in expected] for name, expected in bundle.golden.items()}
    replace(bundle, golden=golden).save()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (corrupt, r"model\.onnx is damaged"),
        (empty_record, r"does not describe a bundle .* Nothing was promoted"),
        (no_number, "The server ended with"),
        (wrong_shape, "The server ended with 2 with this bundle: .* Got: 16 Expected: 99"),
        (lying, "The server ended with 2 with this bundle: .* off what it promises"),
    ],
)
def test_a_bundle_that_is_no_good_is_refused(spoil: Callable[[Bundle], None], said: str, tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "bundle", gain=1.0)
    spoil(made)
    with pytest.raises(GateRefused, match=said), serving(made.path, log_file=tmp_path / "server.log"):
        pytest.fail("a server came up with it")


TASK = {"dag_id": "train_and_promote", "run_id": "r", "task_id": "check_serving", "map_index": "-1"}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "engine")


def image(engine: Engine, **changes: Any) -> ServingImage:
    containers = Containers(engine, deployment="d")  # type: ignore[arg-type]
    return ServingImage(
        **{"name": "tire-serving:7", "network": NETWORK, "containers": containers, "task": TASK} | changes
    )


def test_a_container_of_the_serving_image_is_checked_as_a_process_is_and_removed(
    tmp_path: Path, engine: Engine
) -> None:
    made = make_bundle(tmp_path / "bundle", gain=1.0)
    with serving(made.path, log_file=tmp_path / "unused", image=image(engine)) as (bundle, server):
        figures = check_answers(bundle, server) | check_load(bundle, server, ServingLimits())
        with pytest.raises(GateRefused, match=r"\(memory_mb\)"):
            check_load(bundle, server, ServingLimits(memory_mb=1))
        assert server.client.post("/predict", headers={"Authorization": "Bearer no"}).status_code == 401
    assert 20 < figures["memory_mb"] < 900
    assert engine.there == {}
    (options,) = engine.made.values()
    assert options["image"] == "tire-serving:7"
    assert options["labels"] == {"tire.deployment": "d", **{f"tire.{name}": value for name, value in TASK.items()}}
    assert (options["host_config"]["cap_drop"], options["host_config"]["read_only"]) == (["ALL"], True)


def test_a_container_that_nobody_waits_for_is_none_of_the_reapers(tmp_path: Path, engine: Engine) -> None:
    made = make_bundle(tmp_path / "bundle", gain=1.0)
    with serving(made.path, log_file=tmp_path / "unused", image=image(engine, task={})):
        assert [options["labels"] for options in engine.made.values()] == [{}]


def test_a_container_that_ends_says_why_and_is_removed(tmp_path: Path, engine: Engine) -> None:
    made = make_bundle(tmp_path / "bundle", gain=1.0)
    lying(made)
    with (
        pytest.raises(GateRefused, match=r"The server ended with 2 with this bundle: .* off what it promises"),
        serving(made.path, log_file=tmp_path / "unused", image=image(engine)),
    ):
        pytest.fail("a server came up with it")
    assert engine.there == {}


def test_a_container_that_cannot_start_is_removed(tmp_path: Path, engine: Engine) -> None:
    made = make_bundle(tmp_path / "bundle", gain=1.0)
    engine.refuses = "no such network"
    with (
        pytest.raises(ServiceUnavailable, match="no such network"),
        serving(made.path, log_file=tmp_path / "unused", image=image(engine)),
    ):
        pytest.fail("a server came up")
    assert engine.there == {}
