"""`ImageClassifier`: a list of paths in, a list as long out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tire_pipeline import ImageClassifier
from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import InputError


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
