"""The same ONNX model behind LitServe, as its documentation has it: `python serving_litserve.py MODEL HEIGHT WIDTH PORT
CORES` serves until it is stopped. Runs in .venv-bench: imports nothing of ours but its neighbour.
"""

from __future__ import annotations

import sys
from typing import Any

import cv2
import litserve
import numpy as np
import onnxruntime
from serving_peers import prepare

MAX_BATCH, MAX_WAIT_S = 16, 0.003  # what ours has


class Classifier(litserve.LitAPI):
    """Pictures in, probabilities out. LitServe pickles it into its worker."""

    def __init__(self, model: str, height: int, width: int, cores: int) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=MAX_WAIT_S)
        self.model, self.height, self.width, self.cores = model, height, width, cores

    def setup(self, device: str) -> None:
        cv2.setNumThreads(1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.cores
        self.session = onnxruntime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads annotations as FastAPI does
        return prepare(request["images"].file.read(), self.height, self.width)

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        logits = self.session.run(["logits"], {"images": x})[0]
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    model, (height, width, port, cores) = sys.argv[1], map(int, sys.argv[2:])
    server = litserve.LitServer(Classifier(model, height, width, cores), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="warning")
