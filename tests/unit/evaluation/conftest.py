"""Pictures of one colour and a bundle that tells red from green, so every right answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.unit.serving.conftest import CLASSES, solid, write_model
from tire_pipeline.bundle import Bundle
from tire_pipeline.evaluation.answers import Answers, as_rows, probabilities
from tire_pipeline.imaging import Preprocessing

SIZE = 16
MakeAnswers = Callable[..., Answers]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    (tmp_path / "bundle").mkdir()
    write_model(tmp_path / "bundle" / "model.onnx", gain=1.0, size=SIZE)
    spec = Preprocessing(SIZE, SIZE)
    made = Bundle(tmp_path / "bundle", CLASSES, "defective", spec, candidate="tiny", snapshot_digest="0" * 64)
    return replace(made, review_band=(0.4, 0.6), costs=(20.0, 1.0)).save()


COMBINED = [f"condition={c};view={v}" for c in ("defective", "good") for v in ("side", "tread")]


@pytest.fixture
def combined(bundle: Bundle) -> tuple[Bundle, Answers]:
    """Two labels of 40 images: one defective side in ten is missed, one good tread in ten is an alarm, and two images
    have the right condition and the wrong view."""
    both = replace(bundle, classes=COMBINED)
    y_N = np.arange(40) % 4
    given_N = y_N.copy()
    given_N[[0, 3, 1, 2]] = [2, 1, 0, 3]
    p_NK = 0.05 + 0.8 * np.eye(4)[given_N]
    images = np.zeros((40, SIZE, SIZE, 3), np.uint8)
    light = dict.fromkeys(("brightness", "contrast", "sharpness"), 100.0)
    shown = {"format": "PNG", "width": SIZE, "height": SIZE, "side": "test", "camera": "left", **light}
    names = {"path": [f"{i}.png" for i in range(40)], "group": [f"tyre-{i}" for i in range(40)]}
    rows = pd.DataFrame({**names, "label": [COMBINED[k] for k in y_N]}).assign(**shown, view=["a", "b"] * 20, ms=1.0)
    rows, scored = as_rows(both, rows, p_NK)
    return both, Answers(rows, scored, images, np.arange(40))


@pytest.fixture
def make_answers(bundle: Bundle) -> MakeAnswers:
    """Answers on red (defective) and green (good) pictures by turns; every `wrong`th has the other label."""

    def make(n: int = 60, *, wrong: int = 10, **columns: Any) -> Answers:
        red_N = np.arange(n) % 2 == 0
        images = np.stack(
            [solid(120 + i % 40, 60, size=SIZE) if r else solid(60, 120, size=SIZE) for i, r in enumerate(red_N)]
        )
        labelled_red_N = red_N ^ (np.arange(n) % wrong == 0)
        rows = pd.DataFrame(
            {
                "path": [f"{i:03d}.png" for i in range(n)],
                "label": np.where(labelled_red_N, "defective", "good"),
                "group": [f"tyre-{i}" for i in range(n)],
                "camera": np.where(np.arange(n) < 15, "left", "right"),
                "format": "PNG",
                "width": SIZE,
                "height": SIZE,
                **{name: np.linspace(0, 255, n) for name in ("brightness", "contrast", "sharpness")},
                "side": "test",
                **columns,
            }
        )
        p_NK, ms_N = probabilities(bundle, images, np.arange(n))
        rows, scored = as_rows(bundle, rows, p_NK)
        return Answers(rows.assign(ms=ms_N), scored, images, np.arange(n))

    return make
