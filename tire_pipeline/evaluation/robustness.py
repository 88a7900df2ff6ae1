"""The same images under conditions that a camera on a line meets: blur, little light, noise, compression, a turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import cv2
import numpy as np

from tire_pipeline.bundle import Bundle, Session
from tire_pipeline.evaluation.answers import BATCH, Answers
from tire_pipeline.imaging import Pixels, decode, encode_jpeg, normalise
from tire_pipeline.metrics import with_intervals

Change = Callable[[Pixels, np.random.Generator], Pixels]


def robustness(bundle: Bundle, answers: Answers, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Every metric with its interval, by the condition's name. The pictures are changed at the model's size."""
    session, rows, found = Session(bundle, threads=2), range(len(answers.rows)), {}
    for name, change in CONDITIONS.items():
        rng, parts = np.random.default_rng(seed), []
        for part in (rows[i : i + BATCH] for i in rows[::BATCH]):
            changed = np.stack([change(answers.picture(i), rng) for i in part])
            parts.append(session.probabilities(normalise(changed, bundle.preprocessing)))
        p_NK = np.concatenate(parts)
        predicted_N = np.array([bundle.classes.index(bundle.decide(p_K)[0]) for p_K in p_NK])
        found[name] = with_intervals(replace(answers.scored, p_NK=p_NK, predicted_N=predicted_N), answers.groups)
    return found


def _blur(pixels: Pixels, _: np.random.Generator) -> Pixels:
    return cast("Pixels", cv2.GaussianBlur(pixels, (0, 0), sigmaX=1.5))


def _dark(pixels: Pixels, _: np.random.Generator) -> Pixels:
    return cast("Pixels", (pixels * 0.4).astype(np.uint8))


def _noise(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return cast("Pixels", (pixels + rng.normal(0, 15, pixels.shape)).clip(0, 255).astype(np.uint8))


def _jpeg(pixels: Pixels, _: np.random.Generator) -> Pixels:
    return decode(encode_jpeg(pixels, quality=30))


def _turn(pixels: Pixels, _: np.random.Generator) -> Pixels:
    """A quarter turn; a picture that is not square is brought back to its shape."""
    height, width = pixels.shape[:2]
    return cast("Pixels", cv2.resize(np.ascontiguousarray(np.rot90(pixels)), (width, height)))


CONDITIONS: dict[str, Change] = {
    "blur": _blur,
    "dark": _dark,
    "noise": _noise,
    "jpeg_30": _jpeg,
    "turned_90": _turn,
}
