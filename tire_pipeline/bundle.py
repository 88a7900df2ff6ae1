"""The bundle: weights, classes, preprocessing, calibration and threshold as one verified folder.

    bundle.json         everything below by name with its sha256, and all that is needed to answer for an image
    model.onnx          input `images` float32 (B, C, H, W) normalised, output `logits` (B, K)
    model.safetensors   the same weights for torch, of the network that training.json describes
    golden/NN.png       images with the probabilities expected of them, to check a loaded model

The bundle's digest is the sha256 of bundle.json, which holds the digests of the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnxruntime
from pydantic import TypeAdapter, ValidationError

from tire_pipeline.errors import InputError, one_line
from tire_pipeline.imaging import Pixels, Preprocessing, encode_png
from tire_pipeline.input_gate import InputGate
from tire_pipeline.refs import digest_of_file
from tire_pipeline.several_labels import positives

MANIFEST = "bundle.json"
MODEL = "model.onnx"
FORMAT = 1

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. `positive_class` is a class, or a value of one of the labels that the classes combine.
    `threshold` and `review_band` speak of its calibrated probability 0..1; they were chosen on validation images by the
    `costs` of a miss and of an alarm (None: a class counts as much as the other) and the recall's floor `recall_min`.
    """

    path: Path
    classes: list[str]
    positive_class: str | None
    preprocessing: Preprocessing
    candidate: str
    snapshot_digest: str
    temperature: float = 1.0
    threshold: float = 0.5
    review_band: tuple[float, float] = (0.5, 0.5)
    costs: tuple[float, float] | None = None
    recall_min: float | None = None
    golden: dict[str, list[float]] = field(default_factory=dict)
    input_gate: InputGate | None = None
    digest: str = ""

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """The bundle at `path`, every file of it compared with its sha256. Raises InputError naming what differs."""
        manifest = path / MANIFEST
        if not manifest.is_file():
            raise InputError(f"{path} is no bundle: it has no {MANIFEST}. `tire export RUN` writes one.")
        data = manifest.read_bytes()
        try:
            record = json.loads(data)
        except ValueError as error:
            raise InputError(f"{manifest} is damaged ({error}). Download the bundle again.") from None
        if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
            raise InputError(f"{manifest} is not of bundle format {FORMAT}. Export the model again with this version.")
        try:
            files = TypeAdapter(dict[str, str]).validate_python(record.pop("files", None))
            place = {"path": path, "digest": hashlib.sha256(data).hexdigest()}
            bundle = TypeAdapter(cls).validate_python({**record, **place})
            problems = bundle._problems(record)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc'])) or 'files'}: {e['msg']}" for e in error.errors()]
        if problems:
            raise InputError(
                f"{manifest} does not describe a bundle ({'; '.join(problems)}). Export the model again with this "
                "version."
            )
        for name, sha256 in files.items():
            _check_file(path / name, sha256)
        return bundle

    def _problems(self, record: dict[str, Any]) -> list[str]:
        """What is wrong with the bundle of a record although every field has its type."""
        parts = [("", record, Bundle), ("preprocessing.", record["preprocessing"], Preprocessing)]
        parts += [("input_gate.", gate, InputGate)] if (gate := record.get("input_gate")) else []
        found = []
        for prefix, given, kind in parts:
            found += [f"{prefix}{name} is unknown" for name in sorted(set(given) - {f.name for f in fields(kind)})]
        if self.positive_class is not None and not self.positives:
            found.append(f"positive_class {self.positive_class} is no class")
        for name, p_K in self.golden.items():
            if len(p_K) != len(self.classes):
                found.append(f"{name} has {len(p_K)} probabilities for {len(self.classes)} classes")
        return found

    def save(self) -> Bundle:
        """Write bundle.json over the files that lie in `path`. The same files give the same digest."""
        record = asdict(self)
        del record["path"], record["digest"]
        files = sorted(p for p in self.path.rglob("*") if p.is_file() and p.name != MANIFEST)
        record["files"] = {p.relative_to(self.path).as_posix(): digest_of_file(p) for p in files}
        data = json.dumps({"format": FORMAT, **record}, sort_keys=True, indent=1, ensure_ascii=False).encode()
        (self.path / MANIFEST).write_bytes(data)
        return replace(self, digest=hashlib.sha256(data).hexdigest())

    def decide(self, probabilities_K: Sequence[float] | Floats) -> tuple[str, float, str]:
        """(label, its probability, decision) of one image.

        With a positive class the threshold says whether the label is the likeliest of the positive classes or of the
        others, and the decision is the positive class' name, `good`, or `review` inside the band. Without one the label
        is the most probable class and the decision is `accept`, or `review` where its probability is below the band's
        upper end.
        """
        p_K = [float(p) for p in probabilities_K]
        low, high = self.review_band
        if self.positive_class is None:
            best = int(np.argmax(p_K))
            return self.classes[best], p_K[best], "accept" if p_K[best] >= high else "review"
        wanted = set(self.positives)
        p_positive = sum(p_K[i] for i in wanted)
        is_positive = p_positive >= self.threshold
        label = max((i for i in range(len(p_K)) if (i in wanted) == is_positive), key=lambda i: p_K[i])
        decision = "review" if low < p_positive < high else self.positive_class if is_positive else "good"
        return self.classes[label], p_K[label], decision

    @cached_property
    def positives(self) -> tuple[int, ...]:
        """Indices of the classes that are, or have, the positive one."""
        return positives(self.classes, self.positive_class)

    def golden_images(self) -> list[tuple[bytes, list[float]]]:
        """(PNG bytes, expected calibrated probabilities (K,)) of each golden image. InputError when one is missing."""
        if missing := sorted(name for name in self.golden if not (self.path / name).is_file()):
            raise InputError(f"The bundle at {self.path} lacks {', '.join(missing)}. Download it again.")
        return [((self.path / name).read_bytes(), expected) for name, expected in sorted(self.golden.items())]

    def with_golden(self, images: Sequence[Pixels], probabilities_NK: Floats) -> Bundle:
        """The bundle with these images as its golden ones; their PNGs are written, `save` is still to be called."""
        (self.path / "golden").mkdir(exist_ok=True)
        golden = {}
        for i, (pixels, p_K) in enumerate(zip(images, probabilities_NK, strict=True)):
            name = f"golden/{i:02d}.png"
            (self.path / name).write_bytes(encode_png(pixels))
            golden[name] = [round(float(p), 6) for p in p_K]
        return replace(self, golden=golden)


class Session:
    """A bundle's model in onnxruntime. Safe to call from several threads."""

    def __init__(self, bundle: Bundle, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(bundle.path / MODEL), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exceptions share no base
            raise InputError(f"The model of {bundle.path} cannot be loaded: {one_line(error)}") from error
        self.bundle = bundle

    def logits(self, images_BCHW: Floats) -> Floats:
        """(B, C, H, W) normalised to raw logits (B, K)."""
        return cast("Floats", self._session.run(["logits"], {"images": images_BCHW})[0])

    def probabilities(self, images_BCHW: Floats) -> Floats:
        """(B, C, H, W) normalised to calibrated probabilities (B, K) that sum to 1."""
        return softmax(self.logits(images_BCHW) / np.float32(self.bundle.temperature))


def softmax(logits_BK: npt.NDArray[Any]) -> Floats:
    """Softmax over the last axis, shifted by the maximum so that nothing overflows."""
    shifted = logits_BK - logits_BK.max(axis=-1, keepdims=True)
    e = np.exp(shifted)
    return cast("Floats", (e / e.sum(axis=-1, keepdims=True)).astype(np.float32))


def _check_file(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise InputError(f"The bundle at {path.parent} lacks {path.name}. Download it again.")
    if (found := digest_of_file(path)) != sha256:
        raise InputError(
            f"{path} is damaged: its sha256 is {found[:12]}…, the bundle says {sha256[:12]}…. Download it again."
        )
