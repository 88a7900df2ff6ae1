from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tire_pipeline.bundle import Bundle, Session, softmax
from tire_pipeline.errors import InputError
from tire_pipeline.imaging import Preprocessing


def made(path: Path, **given: Any) -> Bundle:
    """A saved bundle whose model is no model: enough for all but asking it."""
    path.mkdir(exist_ok=True)
    (path / "model.onnx").write_bytes(b"weights")
    defaults: dict[str, Any] = {"classes": ["defective", "good"], "positive_class": "defective"}
    fixed = {"preprocessing": Preprocessing(32, 48), "candidate": "cnn", "snapshot_digest": "d"}
    return Bundle(path=path, **{**defaults, **fixed, **given}).save()


def test_a_bundle_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    golden = {"golden/00.png": [0.25, 0.75]}
    bundle = made(tmp_path / "b", temperature=1.5, threshold=0.3, review_band=(0.2, 0.4), golden=golden)
    assert Bundle.load(tmp_path / "b") == bundle
    assert len(bundle.digest) == 64


def test_the_same_files_give_the_same_digest_wherever_they_lie(tmp_path: Path) -> None:
    digests = [made(tmp_path / name).digest for name in ("a", "b")]
    assert digests[0] == digests[1]
    assert made(tmp_path / "c", threshold=0.6).digest != digests[0]


def test_a_changed_file_a_missing_file_and_a_changed_manifest_are_seen(tmp_path: Path) -> None:
    bundle = made(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"weighty")
    with pytest.raises(InputError, match=r"model\.onnx is damaged: its sha256 is .* Download it again"):
        Bundle.load(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"lacks model\.onnx"):
        Bundle.load(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"weights")
    record = json.loads((tmp_path / "bundle.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps({**record, "threshold": 0.1}))
    assert Bundle.load(tmp_path).digest != bundle.digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is no bundle: it has no bundle.json"),
        ("{", "is damaged"),
        ("[1]", "not of bundle format 1"),
        ('{"format": 99}', "not of bundle format 1"),
        ('{"format": 1}', "does not describe a bundle"),
    ],
)
def test_what_is_no_bundle_is_said_so(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(InputError, match=said):
        Bundle.load(tmp_path)


GATE = {"side_min": 1, "brightness_min": 0.0, "sharpness_min": 0.0, "distance_max": 1.0, "space": ""}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"new_field": 1}, "new_field is unknown"),
        ({"preprocessing": {"height": 8, "width": 8, "gamma": 2}}, r"preprocessing\.gamma is unknown"),
        ({"input_gate": {**GATE, "contrast_min": 3}}, r"input_gate\.contrast_min is unknown"),
        ({"classes": None}, "classes: Input should be a valid list"),
        ({"preprocessing": {"height": 8}}, r"preprocessing\.width: Field required"),
        ({"review_band": [0.5]}, r"review_band\.1: Field required"),
        ({"files": [1]}, "files: Input should be a valid dictionary"),
        ({"positive_class": "rust"}, "positive_class rust is no class"),
        ({"golden": {"golden/00.png": [1.0]}}, r"golden/00\.png has 1 probabilities for 2 classes"),
    ],
)
def test_a_record_that_describes_no_bundle_is_refused_by_what_is_wrong(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    made(tmp_path)
    record = json.loads((tmp_path / "bundle.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps({**record, **changes}))
    with pytest.raises(InputError, match=said):
        Bundle.load(tmp_path)


@pytest.mark.parametrize("key", ["files", "classes", "positive_class", "preprocessing", "candidate"])
def test_a_record_that_lacks_something_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
    made(tmp_path)
    record = json.loads((tmp_path / "bundle.json").read_text())
    del record[key]
    (tmp_path / "bundle.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=key):
        Bundle.load(tmp_path)


def test_a_golden_image_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    bundle = made(tmp_path, golden={"golden/00.png": [0.5, 0.5]})
    with pytest.raises(InputError, match=r"lacks golden/00\.png"):
        bundle.golden_images()


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.90, ("defective", "defective")),
        (0.60, ("defective", "defective")),
        (0.59, ("defective", "review")),
        (0.50, ("defective", "review")),
        (0.49, ("good", "review")),
        (0.40, ("good", "good")),
        (0.10, ("good", "good")),
    ],
)
def test_a_positive_class_is_decided_by_its_threshold_and_band(tmp_path: Path, p: float, expected: Any) -> None:
    bundle = made(tmp_path, threshold=0.5, review_band=(0.4, 0.6))
    label, probability, decision = bundle.decide([p, 1 - p])
    assert (label, decision) == expected
    assert probability == pytest.approx(p if label == "defective" else 1 - p)


def test_below_the_threshold_the_best_of_the_other_classes_is_named(tmp_path: Path) -> None:
    bundle = made(tmp_path, classes=["cut", "defective", "good"], threshold=0.9, review_band=(0.9, 0.9))
    assert bundle.decide([0.3, 0.6, 0.1]) == ("cut", 0.3, "good")


def test_a_positive_value_of_one_of_several_labels_is_decided_by_all_classes_that_have_it(tmp_path: Path) -> None:
    sides, treads = "condition={};view=side", "condition={};view=tread"
    classes = [made_of.format(c) for c in ("defective", "good") for made_of in (sides, treads)]
    bundle = made(tmp_path, classes=classes, threshold=0.3, review_band=(0.25, 0.5))
    assert bundle.decide([0.2, 0.15, 0.6, 0.05]) == (classes[0], 0.2, "review")
    assert bundle.decide([0.3, 0.3, 0.4, 0.0]) == (classes[0], 0.3, "defective")
    assert bundle.decide([0.1, 0.1, 0.3, 0.5]) == (classes[3], 0.5, "good")
    assert Bundle.load(bundle.save().path).positives == (0, 1)


def test_without_a_positive_class_the_most_probable_is_accepted_or_reviewed(tmp_path: Path) -> None:
    bundle = made(tmp_path, classes=["a", "b", "c"], positive_class=None, review_band=(0.5, 0.6))
    assert bundle.decide([0.2, 0.7, 0.1]) == ("b", 0.7, "accept")
    assert bundle.decide([0.3, 0.4, 0.3]) == ("b", 0.4, "review")


def test_golden_images_are_kept_without_loss(tmp_path: Path) -> None:
    pixels = [np.full((32, 48, 3), i, np.uint8) for i in range(3)]
    p_NK = np.array([[0.1, 0.9], [0.5, 0.5], [1 / 3, 2 / 3]], np.float32)
    made(tmp_path).with_golden(pixels, p_NK).save()
    golden = Bundle.load(tmp_path).golden_images()
    assert [expected for _, expected in golden] == [[0.1, 0.9], [0.5, 0.5], [0.333333, 0.666667]]
    assert golden[1][0].startswith(b"\x89PNG")


def test_a_model_that_onnxruntime_cannot_load_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded"):
        Session(made(tmp_path))


def test_softmax_sums_to_one_and_does_not_overflow() -> None:
    p_BK = softmax(np.array([[1000.0, 999.0], [-1000.0, 0.0]], np.float32))
    assert p_BK.sum(axis=1) == pytest.approx([1, 1])
    assert p_BK[0, 0] == pytest.approx(1 / (1 + np.exp(-1)))
