"""`ImageClassifier`: a list of paths in, a list as long out."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unit.serving.conftest import Serve, pictures
from tire_pipeline import ImageClassifier
from tire_pipeline.bundle import Bundle
from tire_pipeline.datasets.pixels import Located, read_image
from tire_pipeline.errors import InputError
from tire_pipeline.evaluation.answers import probabilities
from tire_pipeline.imaging import encode_png
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import ModelSlot, load_model


def test_every_path_has_an_entry_and_what_cannot_be_read_is_an_error_entry(
    make_bundle: Callable[..., Bundle], tmp_path: Path, red_png: bytes, green_png: bytes
) -> None:
    (tmp_path / "red.png").write_bytes(red_png)
    (tmp_path / "green.png").write_bytes(green_png)
    (tmp_path / "text.png").write_text("text")
    names = ["red.png", "missing.png", "text.png", "green.png"] * 9
    answers = ImageClassifier.load(make_bundle().path).predict([tmp_path / name for name in names])
    assert [Path(a.path).name for a in answers] == names
    assert [a.decision for a in answers] == ["defective", None, None, "good"] * 9
    assert answers[0].probabilities and answers[0].probability == answers[0].probabilities["defective"]
    assert answers[1].error and "missing.png" in answers[1].error and answers[2].error
    assert answers[0].error is None


def test_a_file_larger_than_any_picture_is_not_read(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**40)  # no memory holds it, no disk either: it is a hole
    (answer,) = ImageClassifier.load(make_bundle().path).predict([tmp_path / "large.png"])
    assert answer.error == "The file is larger than 20 MiB. Save the picture smaller."


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_a_wide_picture_is_answered_as_evaluation_answers_it(
    make_bundle: Callable[..., Bundle], tmp_path: Path, serve: Serve, resize: str
) -> None:
    bundle = make_bundle(resize=resize)
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80, 0], pixels[:, :40, 1], pixels[:, 80:, 1] = 220, 220, 220  # red in the middle, green beside it
    (tmp_path / "wide.png").write_bytes(encode_png(pixels))
    data = (tmp_path / "wide.png").read_bytes()
    image = Located(0, "wide.png", hashlib.sha256(data).hexdigest(), "", 0, len(data))
    seen_HWC = read_image(data, image, height=16, width=16, how=resize)
    expected = probabilities(bundle, seen_HWC[None], np.array([0]))[0][0]
    (listed,) = ImageClassifier.load(bundle.path).predict([tmp_path / "wide.png"])
    metrics = ServingMetrics()
    slot = ModelSlot("tire-defect", metrics)
    slot.swap(load_model(bundle.path))
    client = serve(create_app(slot, metrics=metrics))
    (served,) = client.post("/predict", files=pictures(data)).json()["predictions"]
    explained = client.post("/explain", files={"image": data}, data={"label": "good"}).json()
    assert list(listed.probabilities.values()) == list(served["probabilities"].values()) == expected.tolist()
    assert explained["probability"] == expected[1]
    assert served["label"] == {"crop": "defective", "stretch": "good"}[resize]


def test_no_paths_give_no_answers(make_bundle: Callable[..., Bundle]) -> None:
    assert ImageClassifier.load(make_bundle().path).predict([]) == []


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no bundle"):
        ImageClassifier.load(str(tmp_path))


def test_the_serving_process_imports_neither_torch_nor_mlflow_nor_pandas() -> None:
    code = "import sys, tire_pipeline.serving.server, tire_pipeline.stores.ledger; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded & {"torch", "torchvision", "mlflow", "pandas", "boto3", "airflow", "scipy", "sklearn"} == set()
    assert {"onnxruntime", "fastapi"} <= loaded
