"""A sample in which something is wrong of every kind: the report finds it, and opens without a network."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.browser import chromium, look
from tire_pipeline import steps
from tire_pipeline.errors import DataRefused
from tire_pipeline.sample import draw_sample
from tire_pipeline.wiring import Services


def plant(folder: Path) -> dict[str, list[str]]:
    """Draw 240 photographs and spoil some; what was done to which, by path."""
    draw_sample(folder, num_images=240, seed=3, difficulty=0.3)
    rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))
    paths = [r["path"] for r in rows]
    rng = np.random.default_rng(0)
    some = [paths[i] for i in rng.permutation(len(paths))]
    truncated, dark, originals, told = some[:2], some[2:4], some[4:12], some[12]
    for path in truncated:
        data = (folder / path).read_bytes()
        (folder / path).write_bytes(data[: len(data) // 2])
    for shade, path in enumerate(dark):
        cv2.imwrite(str(folder / path), np.full((300, 300, 3), shade, np.uint8))
    copies = []
    for path in originals:  # another upload of the same photographs, recompressed, under new names and groups
        copy = f"{Path(path).parent}/again-{Path(path).name}"
        cv2.imwrite(str(folder / copy), cv2.imread(str(folder / path)), [cv2.IMWRITE_JPEG_QUALITY, 40])
        copies.append(copy)
    of = {r["path"]: r for r in rows}
    rows += [{**of[path], "path": copy, "group": f"again-{copy}"} for path, copy in zip(originals, copies, strict=True)]
    other = {"good": "defective", "defective": "good"}[of[told]["label"]]
    twin = f"{other}/twin.jpg"
    (folder / twin).write_bytes((folder / told).read_bytes())
    rows.append({**of[told], "path": twin, "label": other})
    for row in rows:  # one camera for each class gives the label away
        tell(folder / row["path"], row["label"], skip={*truncated, *dark, told, twin}, path=row["path"])
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return {"truncated": truncated, "dark": dark, "originals": originals, "copies": copies, "twins": [told, twin]}


def tell(file: Path, label: str, *, skip: set[str], path: str) -> None:
    """Good tyres are photographed by a brighter lamp."""
    if label == "good" and path not in skip:
        brighter = np.clip(cv2.imread(str(file)).astype(int) + 60, 0, 255).astype(np.uint8)
        cv2.imwrite(str(file), brighter, [cv2.IMWRITE_JPEG_QUALITY, 90])


@pytest.mark.timeout(300)
def test_what_is_wrong_with_a_dataset_is_found_and_shown(live: Services, tmp_path: Path) -> None:
    planted = plant(tmp_path / "in")
    steps.push(tmp_path / "in", version="planted", services=live)
    with pytest.raises(DataRefused, match=r"at most 1\.0% of the files are unreadable") as refused:
        steps.validate("planted", services=live)
    assert "quarantine.csv" in str(refused.value)
    with pytest.raises(DataRefused, match=r"the metadata probe reaches at most 0\.60 \(--max-probe\): found 0\.[6-9]"):
        steps.validate("planted", max_bad=0.05, max_probe=0.6, services=live)
    snapshot = steps.validate("planted", max_bad=0.05, services=live)
    record = live.objects.get_json(f"snapshots/{snapshot.digest}/report.json")
    reasons = {q["path"]: q["error"] for q in record["quarantined"]}
    assert set(reasons) == {*planted["truncated"], *planted["twins"]}
    assert all("truncated" in reasons[path] for path in planted["truncated"])
    assert all("The same picture is" in reasons[path] for path in planted["twins"])
    clusters = [{row["path"] for row in cluster} for cluster in record["duplicates"]]
    usable = [p for p in zip(planted["originals"], planted["copies"], strict=True) if not set(p) & set(reasons)]
    assert len(usable) >= 6
    assert all(any({*pair} <= cluster for cluster in clusters) for pair in usable)
    assert set(planted["dark"]) <= {o["path"] for o in record["outliers"]}
    assert any("tell the label at most at 0.60" in warning for warning in record["warnings"])
    opened(live.objects.get(f"snapshots/{snapshot.digest}/report.html"), tmp_path, record)


def opened(page: bytes, folder: Path, record: dict[str, Any]) -> None:
    """The page as a browser without a network shows it."""
    (folder / "report.html").write_bytes(page)
    asked: list[str] = []
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 1000, "height": 900})
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((folder / "report.html").as_uri())
        assert tab.get_by_text("Look at this before you trust a model").is_visible()
        assert tab.locator("img").evaluate_all("all => all.every(i => i.complete && i.naturalWidth > 0)")
        for path in (record["quarantined"][0]["path"], record["outliers"][0]["path"]):
            assert tab.get_by_text(path).first.is_visible()
        look(tab, "report-planted", full_page=True)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
