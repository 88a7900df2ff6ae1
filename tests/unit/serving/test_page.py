"""The page at `/` in a browser, on a wide screen and on a phone, light and dark."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.browser import chromium, look
from tire_pipeline.bundle import Bundle
from tire_pipeline.imaging import encode_png
from tire_pipeline.input_gate import InputGate, fit_input_gate
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import ModelSlot, load_model


def _picture(red: int, green: int, *, side: int = 200) -> bytes:
    """Red in a corner alone, so that a map has something to show."""
    pixels = np.full((side, side, 3), (20, green, 0), np.uint8)
    pixels[: side // 2, : side // 2] = (red, 20, 0)
    return encode_png(pixels)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    contents = {"cut.png": _picture(255, 20), "small.png": _picture(255, 20, side=40), "text.png": b"no picture"}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    return [tmp_path / name for name in contents]


def _gate() -> InputGate:
    """One that only minds the size."""
    grey_NHWC = np.random.default_rng(0).integers(90, 110, (9, 16, 16, 3), np.uint8)
    fitted = fit_input_gate(grey_NHWC, np.arange(6), np.arange(9))
    return replace(fitted, side_min=50, brightness_min=0.0, sharpness_min=0.0, distance_max=1e9)


@pytest.fixture
def client(make_bundle: Callable[..., Bundle], serve: Callable[..., httpx.Client]) -> httpx.Client:
    metrics = ServingMetrics()
    slot = ModelSlot("tire-defect", metrics)
    model = load_model(make_bundle(gain=4.0).path)
    slot.swap(replace(model, bundle=replace(model.bundle, input_gate=_gate())))
    digest = hashlib.sha256(b"key of the test").hexdigest()
    return serve(create_app(slot, metrics=metrics, api_keys=[digest]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wide", {"viewport": {"width": 1280, "height": 900}}),
        ("phone-dark", {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "color_scheme": "dark"}),
    ],
)
def test_pictures_dropped_on_the_page_are_judged_and_explained(
    client: httpx.Client, files: list[Path], name: str, options: dict[str, Any]
) -> None:
    with chromium() as browser:
        page = browser.new_page(**options)
        broken: list[str] = []
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(str(client.base_url))
        page.set_input_files("#files", files)
        page.get_by_text("give it above").nth(2).wait_for()
        page.get_by_label("This server wants a key").fill("key of the test")
        page.get_by_role("button", name="Use it").click()
        cut = page.locator(".card", has_text="cut.png")
        cut.get_by_text("Defective", exact=True).wait_for()
        assert "%" in cut.locator(".top dd").inner_text()
        small = page.locator(".card", has_text="small.png")
        small.get_by_text("Take it again. The picture is too small").wait_for()
        assert small.get_by_text("Review", exact=True).is_visible()
        page.locator(".card", has_text="text.png").get_by_text("This is no readable image").wait_for()
        cut.get_by_role("button", name="Where is “defective” seen?").click()
        cut.get_by_text("Without the clearest part “defective” is less probable").wait_for()
        assert cut.locator("canvas").is_visible()
        look(page, f"page-{name}", full_page=True)
        cut.get_by_role("button", name="Hide").click()
        assert cut.locator("canvas").count() == 0
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        assert not broken
