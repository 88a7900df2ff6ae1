"""The same ONNX model for `mlflow models serve`, in its ONNX flavour (onnx/) and behind a picture (picture/):
`python serving_peers.py MODEL HEIGHT WIDTH FOLDER CORES`. Runs in .venv-bench: imports nothing of ours.

onnxruntime is told how many cores there are, as for the others: by itself it takes those that it is kept from as well.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import onnx

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def prepare(data: bytes, height: int, width: int) -> Any:
    """A JPEG as (3, H, W) float32, normalised."""
    bgr: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    rgb = cv2.cvtColor(cv2.resize(bgr, (width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
    return ((rgb.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


PICTURE_MODEL = """
import base64

import mlflow
import onnxruntime
from serving_peers import prepare


class Classifier(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = {cores}
        model = context.artifacts["model"]
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def predict(self, context, model_input, params=None):
        x = prepare(base64.b64decode(model_input["picture"][0]), {height}, {width})[None]
        return self.session.run(["logits"], {{"images": x}})[0]


mlflow.models.set_model(Classifier())
"""


def save_for_mlflow(model: str, height: int, width: int, folder: Path, cores: int) -> None:
    mlflow.onnx.save_model(
        onnx.load(model),
        str(folder / "onnx"),
        pip_requirements=["onnxruntime"],
        onnx_session_options={"intra_op_num_threads": cores},
    )
    code = folder / "classifier.py"
    code.write_text(PICTURE_MODEL.format(height=height, width=width, cores=cores))
    mlflow.pyfunc.save_model(
        str(folder / "picture"),
        python_model=str(code),
        artifacts={"model": model},
        code_paths=[__file__],
        pip_requirements=["onnxruntime"],
    )


if __name__ == "__main__":
    save_for_mlflow(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
