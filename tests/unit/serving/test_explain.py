"""The map of where a probability comes from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from tests.unit.serving.conftest import Stuck, held_up
from tire_pipeline.imaging import encode_png
from tire_pipeline.serving.model import LoadedModel, ModelSlot


def test_the_map_shows_where_the_probability_comes_from(
    client: httpx.Client, slot: ModelSlot, model: LoadedModel
) -> None:
    pixels = np.full((40, 40, 3), (20, 220, 0), np.uint8)
    pixels[:20, :20] = (250, 0, 0)  # the only red that there is
    answer = client.post("/explain", files={"image": ("a.png", encode_png(pixels))}, data={"label": "defective"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    rows = np.array(body["map"])
    assert rows.shape == (8, 8) and body["label"] == "defective" and body["model_digest"] == model.bundle.digest
    assert rows[:4, :4].mean() > 0.02 and rows[5:, 5:].max() <= 0 and rows.argmax() in (0, 1, 2, 8, 9, 10, 16, 17, 18)
    without_label = client.post("/explain", files={"image": ("a.png", encode_png(pixels))}).json()
    assert without_label["label"] == "good"


@pytest.mark.parametrize(
    ("files", "data", "says"),
    [
        ({}, {}, "field `image`"),
        ({"image": ("a.png", b"no picture")}, {}, "no readable image"),
        ({"image": ("a.png", encode_png(np.zeros((8, 8, 3), np.uint8)))}, {"label": "round"}, "defective, good"),
    ],
)
def test_a_map_that_cannot_be_made_is_a_400_that_says_why(
    client: httpx.Client, model: LoadedModel, files: Any, data: dict[str, str], says: str
) -> None:
    answer = client.post("/explain", files=files, data=data)
    assert answer.status_code == 400 and says in answer.json()["error"]


def test_only_one_map_is_made_at_a_time(
    client: httpx.Client, slot: ModelSlot, model: LoadedModel, red_png: bytes
) -> None:
    stuck = Stuck(model.session)
    slot.swap(replace(model, session=stuck))  # type: ignore[arg-type]
    with held_up(stuck, lambda: client.post("/explain", files={"image": ("a", red_png)})) as first:
        second = client.post("/explain", files={"image": ("a", b"nothing that is worth decoding")})
    assert second.status_code == 429 and second.headers["Retry-After"] == "1"
    assert first[0].status_code == 200
