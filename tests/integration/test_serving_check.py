"""The serving check with the real server: what it lets pass, and each thing that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.integration.servers import RED, make_bundle
from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import GateRefused
from tire_pipeline.evaluation.serving_check import ServingLimits, answers, check_answers, check_load, serving
from tire_pipeline.imaging import encode_jpeg, encode_png


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
    Bundle(**{**bundle.__dict__, "golden": golden}).save()


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
