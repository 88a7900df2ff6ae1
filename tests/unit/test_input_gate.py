"""Pictures that should be taken again, told from those that can be judged, on drawn discs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tire_pipeline.bundle import Bundle
from tire_pipeline.imaging import Preprocessing
from tire_pipeline.input_gate import InputGate, fit_input_gate, statistics

SIDE = 96


def disc(rng: np.random.Generator) -> np.ndarray:
    """A dark ring with a rim and a tread on a lighter ground, (H, W, 3)."""
    picture = np.full((SIDE, SIDE, 3), rng.integers(140, 200), np.uint8)
    centre = tuple(int(v) for v in rng.integers(SIDE // 2 - 6, SIDE // 2 + 6, 2))
    rubber = int(rng.integers(40, 70))
    cv2.circle(picture, centre, 40, (rubber, rubber, rubber + 4), -1)
    for turn in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        end = (int(centre[0] + 40 * np.cos(turn)), int(centre[1] + 40 * np.sin(turn)))
        cv2.line(picture, centre, end, (rubber + 25,) * 3, 1)
    cv2.circle(picture, centre, 14, (150, 150, 155), -1)
    return np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def discs() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([disc(rng) for _ in range(160)])


@pytest.fixture(scope="module")
def gate(discs: np.ndarray) -> InputGate:
    return fit_input_gate(discs, np.arange(80), np.arange(80, 120))


def why(gate: InputGate, picture: np.ndarray, side: int = SIDE) -> str | None:
    refusal = gate.refusal(picture.astype(np.uint8), width=side, height=side)
    return refusal and refusal.why


def test_pictures_like_those_it_learnt_from_are_judged(gate: InputGate, discs: np.ndarray) -> None:
    assert [why(gate, picture) for picture in discs[120:]].count(None) >= 39
    assert 0.5 < np.mean([gate.distance(picture) for picture in discs[:80]]) < 1.2


def test_each_fault_is_named(gate: InputGate, discs: np.ndarray) -> None:
    good = discs[130]
    assert why(gate, good, side=SIDE // 2 - 1) == "small"
    assert why(gate, good * 0.2) == "dark"
    assert why(gate, cv2.GaussianBlur(good, (0, 0), 6)) == "blurred"
    assert why(gate, np.rot90(np.tile(good[:24, :24], (4, 4, 1)))) == "unlike"
    assert why(gate, np.random.default_rng(1).integers(0, 256, good.shape)) == "unlike"
    refusal = gate.refusal((good * 0.2).astype(np.uint8), width=SIDE, height=SIDE)
    assert refusal and f"needed {gate.brightness_min:.0f} of 255" in refusal.text


def test_a_little_less_light_and_a_little_blur_are_no_fault(gate: InputGate, discs: np.ndarray) -> None:
    for picture in discs[120:130]:
        assert why(gate, picture * 0.85) != "dark"
        assert why(gate, cv2.GaussianBlur(picture, (0, 0), 0.4)) != "blurred"


@pytest.mark.parametrize("value", [0, 127, 255])
def test_a_plain_picture_has_finite_statistics(gate: InputGate, value: int) -> None:
    plain = np.full((SIDE, SIDE, 3), value, np.uint8)
    assert np.isfinite(statistics(plain)).all() and np.isfinite(gate.distance(plain))
    assert why(gate, plain) is not None


def test_the_gate_is_the_same_after_json_and_one_image_can_be_fitted(gate: InputGate, discs: np.ndarray) -> None:
    again = InputGate(**json.loads(json.dumps(asdict(gate))))
    assert again == gate and again.distance(discs[140]) == gate.distance(discs[140])
    alone = fit_input_gate(discs, np.array([0]), np.array([1]))
    assert np.isfinite(alone.distance_max) and why(alone, discs[0]) is None


def test_a_bundle_keeps_its_gate_and_one_of_before_has_none(gate: InputGate, tmp_path: Path) -> None:
    path = tmp_path
    bundle = Bundle(path, ["a", "b"], None, Preprocessing(SIDE, SIDE), "cnn", "0" * 64, input_gate=gate)
    saved = bundle.save()
    assert Bundle.load(path).input_gate == gate
    record = json.loads((path / "bundle.json").read_text())
    del record["input_gate"]
    (path / "bundle.json").write_text(json.dumps(record))
    old = Bundle.load(path)
    assert old.input_gate is None and old.digest != saved.digest
    assert replace(old, digest="") == replace(bundle, input_gate=None)
