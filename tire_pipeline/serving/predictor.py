"""From encoded pictures to answers, one call at a time: what `from tire_pipeline import ImageClassifier` gives.

Legend: B images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tire_pipeline.bundle import Bundle
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.model import LoadedModel, load_model
from tire_pipeline.serving.reading import Reading, by_class, decide, read, size_fault
from tire_pipeline.settings import load_settings
from tire_pipeline.stores import objects

BATCH = 16


@dataclass(frozen=True)
class Classification:
    """One file of a list: either `label` to `decision`, or `error`. `probability` is the label's, calibrated.

    `retake` says why a picture cannot be judged; its decision is `review` then.
    """

    path: str
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    decision: str | None = None
    error: str | None = None
    retake: str | None = None


class ImageClassifier:
    """A loaded bundle for use from Python.

    >>> ImageClassifier.load("bundle/").predict(["a.jpg", "b.png"])
    """

    def __init__(self, model: LoadedModel, *, threads: int) -> None:
        self._model, self._threads = model, threads

    @property
    def bundle(self) -> Bundle:
        """Classes, threshold and digest of what answers."""
        return self._model.bundle

    @classmethod
    def load(cls, uri: str | Path, *, threads: int | None = None) -> ImageClassifier:
        """The bundle in a folder, or below `s3://bucket/prefix` with the settings' credentials.

        Raises InputError when it is no good bundle, ServiceUnavailable when S3 does not answer.
        """
        threads = threads or len(os.sched_getaffinity(0))
        if str(uri).startswith("s3://"):
            return cls(_load_from_s3(str(uri), threads), threads=threads)
        return cls(load_model(Path(uri), threads=threads), threads=threads)

    def predict(self, paths: Sequence[str | Path]) -> list[Classification]:
        """As many entries as paths, in their order; a file that cannot be read comes back as an error entry."""
        return list(self.stream(paths))

    def stream(self, paths: Sequence[str | Path]) -> Iterator[Classification]:
        """The same one by one, for progress over long lists; at most a batch of pictures is in memory."""
        with ThreadPoolExecutor(self._threads) as pool:
            for start in range(0, len(paths), BATCH):
                batch = paths[start : start + BATCH]
                yield from self._classify(batch, list(pool.map(self._read, batch)))

    def _read(self, path: str | Path) -> Reading:
        try:
            found = Path(path).stat()
            if not stat.S_ISREG(found.st_mode):  # opening a pipe waits for whoever may never write to it
                return Reading("", error=f"{path} cannot be read: it is no regular file.")
            if fault := size_fault(found.st_size, Limits()):
                return Reading("", error=fault)
            data = Path(path).read_bytes()
        except (OSError, ValueError) as error:  # a ValueError for a path that no file can have
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return Reading("", error=f"{path} cannot be read: {reason}.")
        return read(data, self.bundle, Limits())

    def _classify(self, paths: Sequence[str | Path], readings: list[Reading]) -> Iterator[Classification]:
        pictures = [reading.picture for reading in readings if reading.picture]
        if pictures:
            p_BK = iter(self._model.session.probabilities(np.stack([picture.x_CHW for picture in pictures])))
        for path, reading in zip(paths, readings, strict=True):
            if reading.picture is None:
                yield Classification(str(path), error=reading.error)
            else:
                p_K = next(p_BK)
                label, probability, decision = decide(self.bundle, reading.picture, p_K)
                retake = reading.picture.retake
                probabilities = by_class(self.bundle, p_K)
                yield Classification(
                    str(path), label, probability, probabilities, decision, retake=retake.text if retake else None
                )


def _load_from_s3(uri: str, threads: int) -> LoadedModel:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    store = objects.connect(load_settings().model_copy(update={"bucket": bucket}))
    with tempfile.TemporaryDirectory() as folder:  # onnxruntime holds the model in memory; the files are not needed
        return load_model(store.download_folder(prefix.rstrip("/") + "/", Path(folder)), threads=threads)
