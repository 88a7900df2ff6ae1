"""The step `check_serving` with the real server and stores in memory: each setting alone is what refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.engine import NETWORK, Engine
from tests.unit.fakes import FakeTracking, fake_services
from tests.unit.serving.conftest import solid, write_model
from tire_pipeline import steps
from tire_pipeline.bundle import Bundle, Session
from tire_pipeline.errors import GateRefused
from tire_pipeline.imaging import Preprocessing, encode_png, prepare
from tire_pipeline.input_gate import fit_input_gate
from tire_pipeline.refs import ModelRef, SplitRef
from tire_pipeline.settings import Settings
from tire_pipeline.stores.containers import Containers
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.network import rebuild_network
from tire_pipeline.training.trained import save_network

SIZE = 32
ANY: dict[str, Any] = {"parity_difference_max": 1.0, "parity_flips_max": 1000}


@dataclass
class Tracking(FakeTracking):
    def tags(self, run_id: str) -> dict[str, str]:
        return self.runs.get(run_id, {})


def draw(folder: Path) -> Path:
    """Noise that is mostly red where it is defective and mostly green where it is good."""
    rng = np.random.default_rng(0)
    for channel, label in enumerate(("defective", "good")):
        (folder / label).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 120, (40, 40, 3), np.uint8)
            pixels[..., channel] += 120
            (folder / label / f"{i}.png").write_bytes(encode_png(pixels))
    return folder


def candidate(folder: Path, *, gated: bool = False) -> Bundle:
    """A bundle whose ONNX model knows red from green, and whose torch network calls everything defective."""
    folder.mkdir()
    write_model(folder / "model.onnx", gain=1.0, size=SIZE)
    config = TrainingConfig(model_type="cnn", image_height=SIZE, image_width=SIZE)
    network = rebuild_network(config, num_classes=2)
    with torch.no_grad():
        list(network.parameters())[-1].copy_(torch.tensor([9.0, -9.0]))
    save_network(network, config, folder)
    spec = Preprocessing(SIZE, SIZE)
    bundle = Bundle(folder, ["defective", "good"], "defective", spec, candidate="cnn", snapshot_digest="s")
    if gated:
        gate = fit_input_gate(
            np.random.default_rng(0).integers(90, 110, (9, SIZE, SIZE, 3), np.uint8), np.arange(6), np.arange(9)
        )
        bundle = replace(bundle, input_gate=replace(gate, side_min=10_000))
    pixels = [solid(200, 30), solid(30, 200)]
    expected_NK = Session(bundle).probabilities(np.stack([prepare(p, spec) for p in pixels]))
    return bundle.with_golden(pixels, expected_NK).save()


@dataclass
class World:
    """A bucket with a split version and registered candidates."""

    services: SimpleNamespace
    split: SplitRef

    def register(self, name: str, bundle: Bundle) -> ModelRef:
        s, split = self.services, self.split
        s.objects.upload_folder(bundle.path, f"runs/{name}/bundle/")
        tags = {"tire.bundle": f"runs/{name}/bundle/", "tire.bundle_digest": bundle.digest}
        tags |= {"tire.version": "v1", "tire.snapshot": split.snapshot.digest, "tire.split": split.digest}
        version = s.tracking.register(run_id=name, key=name, tags=tags).version
        return ModelRef("tire-defect", version, name, bundle.digest, "cnn", split.snapshot.digest)

    def check(self, model: ModelRef, **settings: Any) -> dict[str, float]:
        s, task = self.services, {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": "-1"}
        made = Settings(home=s.settings.home, _env_file=None, **settings)  # type: ignore[call-arg]
        return steps.check_serving(model, task=task, services=SimpleNamespace(**{**vars(s), "settings": made}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    tmp = tmp_path_factory.mktemp("world")
    services = fake_services(tmp / "home")
    services.tracking = Tracking()
    steps.push(draw(tmp / "in"), version="v1", services=services)
    return World(services, steps.split(steps.validate("v1", services=services), services=services))


@pytest.fixture(scope="module")
def model(world: World, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return world.register("plain", candidate(tmp_path_factory.mktemp("plain") / "bundle"))


def test_with_all_limits_wide_open_a_candidate_passes(world: World, model: ModelRef) -> None:
    figures = world.check(model, **ANY)
    assert figures["parity_torch_onnx"] > 0.2 and figures["parity_onnx_server"] < 1e-5
    logged = world.services.tracking.artifacts["plain"]
    assert {"serving_check.json", "worst_mistakes_maps.png"} <= set(logged)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"parity_flips_max": 1000}, "torch and ONNX differ by up to .*; at most 1e-04 and 1000"),
        ({"parity_difference_max": 1.0}, r"in [1-9]\d* of \d+ decisions; at most 1e\+00 and 0"),
        ({**ANY, "check_p95_ms": 0.01}, r"\(p95_ms\)"),
        ({**ANY, "check_memory_mb": 1.0}, r"\(memory_mb\)"),
    ],
)
def test_each_setting_alone_refuses_it(world: World, model: ModelRef, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(GateRefused, match=said):
        world.check(model, **settings)


def test_where_an_image_is_named_its_container_is_checked(world: World, model: ModelRef, tmp_path: Path) -> None:
    engine = Engine(tmp_path / "engine")
    world.services.containers = Containers(engine, deployment="d")  # type: ignore[arg-type]
    world.check(model, **ANY, serving_image="tire-serving:7", trainer_network=NETWORK)
    (options,) = engine.made.values()
    assert (options["image"], options["labels"]["tire.task_id"], engine.there) == ("tire-serving:7", "t", {})
    world.check(model, **ANY)
    assert len(engine.made) == 1


def test_a_candidate_whose_input_gate_refuses_everything_is_refused_unless_that_is_allowed(
    world: World, tmp_path: Path
) -> None:
    gated = world.register("gated", candidate(tmp_path / "bundle", gated=True))
    with pytest.raises(GateRefused, match=r"input gate sends back (\d+) of \1 test images \(100%\); at most 50%"):
        world.check(gated, **ANY)
    assert world.check(gated, **ANY, check_retakes_max=1.0)["parity_onnx_server"] < 1e-5


def test_decisions_that_the_server_makes_otherwise_count_as_flips(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate is not looked at offline: then the server's `review` is another decision than the one that is owed."""
    gated = world.register("gated", candidate(tmp_path / "bundle", gated=True))
    monkeypatch.setattr("tire_pipeline.input_gate.InputGate.refusal", lambda *_, **__: None)
    with pytest.raises(GateRefused, match=r"ONNX and the server differ by .* in (\d+) of \1 decisions"):
        world.check(gated, **ANY | {"parity_flips_max": 9})
