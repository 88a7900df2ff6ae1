"""SageMaker's contract, without SageMaker: folders in, folders out, and no service anywhere."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from tire_pipeline import steps
from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import InputError
from tire_pipeline.refs import TrainedRef
from tire_pipeline.wiring import folder_services


def draw(folder: Path, *, seed: int, per_class: int) -> Path:
    """Grey noise; a `defective` picture is dark in its middle."""
    rng = np.random.default_rng(seed)
    for label in ("good", "defective"):
        (folder / label).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.normal(150, 20, (48, 48, 3)).clip(0, 255).astype(np.uint8)
            if label == "defective":
                pixels[12:36, 12:36] //= 4
            cv2.imwrite(str(folder / label / f"{i:03d}.png"), pixels)
    return folder


def job(root: Path, hyperparameters: dict[str, str]) -> None:
    """The configuration as SageMaker writes it: every value is a string."""
    (root / "input" / "config").mkdir(parents=True, exist_ok=True)
    (root / "input" / "config" / "hyperparameters.json").write_text(json.dumps(hyperparameters))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ml")
    data = root / "input" / "data"
    draw(data / "train", seed=0, per_class=60)
    draw(data / "eval", seed=1, per_class=10)
    job(root, {"model_type": "tiny_vgg", "epochs": "3", "image_height": "32", "image_width": "32", "seed": "0"})
    steps.sagemaker_train(steps.read_channels({}, root=root))
    return root


def test_a_bundle_a_result_and_figures_come_out_of_the_channels(trained: Path) -> None:
    bundle = Bundle.load(trained / "model")
    assert (bundle.candidate, sorted(bundle.classes)) == ("tiny_vgg", ["defective", "good"])
    output = trained / "output" / "data"
    assert json.loads((output / "result.json").read_text())["bundle_digest"] == bundle.digest
    evaluation = json.loads((output / "evaluation.json").read_text())
    assert evaluation["num_images"] == 20
    assert evaluation["metrics"]["balanced_accuracy"] > 0.9
    (run,) = (output / "run").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "FINISHED"
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 3


def test_a_model_from_an_archive_is_evaluated_with_labels_from_elsewhere(trained: Path, tmp_path: Path) -> None:
    images, truth, model = (tmp_path / name for name in ("eval", "truth", "model"))
    for folder in (images, truth, model):
        folder.mkdir()
    rows = [("path", "label")]
    for file in sorted((trained / "input" / "data" / "eval").rglob("*.png")):
        name = f"{file.parent.name[0]}{file.name}"
        shutil.copy(file, images / name)
        rows.append((name, file.parent.name))
    with (truth / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with tarfile.open(model / "model.tar.gz", "w:gz") as tar:
        for part in (trained / "model").iterdir():
            tar.add(part, arcname=part.name)
    environ = {
        "SM_CHANNEL_EVAL": str(images),
        "SM_CHANNEL_MODEL": str(model),
        "SM_GROUND_TRUTH_DIR": str(truth),
        "SM_MODEL_DIR": str(tmp_path / "out"),
        "SM_OUTPUT_DATA_DIR": str(tmp_path / "data"),
    }
    outcome = steps.sagemaker_train(steps.read_channels(environ, root=tmp_path / "nothing"))
    assert set(outcome) == {"evaluation"}
    before = json.loads((trained / "output" / "data" / "evaluation.json").read_text())
    assert outcome["evaluation"]["metrics"]["log_loss"] == pytest.approx(before["metrics"]["log_loss"])
    assert len((tmp_path / "data" / "predictions.csv").read_text().splitlines()) == 21


def test_the_result_of_a_job_of_ours_is_read_from_the_archive_sagemaker_makes(trained: Path, tmp_path: Path) -> None:
    s = folder_services(tmp_path / "objects", runs=tmp_path / "runs")
    with tarfile.open(tmp_path / "output.tar.gz", "w:gz") as tar:
        tar.add(trained / "output" / "data" / "result.json", arcname="result.json")
    s.objects.put_file("sagemaker/tire-train-1/output/output.tar.gz", tmp_path / "output.tar.gz")
    result = steps.sagemaker_result("tire-train-1", services=s)
    assert TrainedRef(**result).candidate == "tiny_vgg"


def test_a_job_that_can_do_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SM_CHANNEL_TRAIN"):
        steps.sagemaker_train(steps.read_channels({}, root=tmp_path))
    draw(tmp_path / "input" / "data" / "train", seed=0, per_class=30)
    job(tmp_path, {"epochs": "none"})
    with pytest.raises(InputError, match="epochs"):
        steps.sagemaker_train(steps.read_channels({}, root=tmp_path))
