"""SageMaker's container contract: channels in, a bundle in SM_MODEL_DIR and figures in SM_OUTPUT_DATA_DIR out.

A job of the pipeline's own brings its spec as a hyperparameter and trains from S3 as everywhere. Any other trains from
the folder of its channel `train`, without S3, MLflow or network.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tire_pipeline.errors import InputError
from tire_pipeline.refs import SnapshotRef, TrainedRef
from tire_pipeline.steps.candidates import train, training_specs
from tire_pipeline.steps.data import Progress, split
from tire_pipeline.steps.live import live
from tire_pipeline.steps.prediction import predict
from tire_pipeline.steps.request import check_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tire_pipeline.metrics import Scored
    from tire_pipeline.wiring import Services

log = logging.getLogger(__name__)
ROOT = Path("/opt/ml")
SAGEMAKER_OUTPUT = "sagemaker"
"""The prefix in the bucket below which SageMaker puts what a job of ours left."""


@dataclass(frozen=True)
class Channels:
    """What SageMaker gave the container. A channel that the job does not have is None."""

    hyperparameters: Mapping[str, str]
    train: Path | None
    eval: Path | None
    model: Path | None
    ground_truth: Path | None
    model_dir: Path
    output_dir: Path


def read_channels(environ: Mapping[str, str], *, root: Path = ROOT) -> Channels:
    """The contract of this container: its variables SM_*, and SageMaker's own folders where there are none."""

    def channel(variable: str, name: str) -> Path | None:
        path = Path(environ.get(variable) or root / "input" / "data" / name)
        return path if path.exists() else None

    file = root / "input" / "config" / "hyperparameters.json"
    return Channels(
        hyperparameters=json.loads(file.read_text()) if file.is_file() else {},
        train=channel("SM_CHANNEL_TRAIN", "train"),
        eval=channel("SM_CHANNEL_EVAL", "eval"),
        model=channel("SM_CHANNEL_MODEL", "model"),
        ground_truth=channel("SM_GROUND_TRUTH_DIR", "ground_truth"),
        model_dir=Path(environ.get("SM_MODEL_DIR") or root / "model"),
        output_dir=Path(environ.get("SM_OUTPUT_DATA_DIR") or root / "output" / "data"),
    )


def sagemaker_train(
    channels: Channels, *, progress: Progress | None = None, services: Services | None = None
) -> dict[str, Any]:
    """Train, if there is something to train from, and evaluate, if there is something to evaluate on.

    Without a spec and a channel `train`, the bundle in the channel `model` is evaluated. Returns what `result.json` and
    `evaluation.json` hold. InputError for a job that has nothing to do.
    """
    channels.model_dir.mkdir(parents=True, exist_ok=True)
    channels.output_dir.mkdir(parents=True, exist_ok=True)
    spec = _document(channels, "spec")
    outcome: dict[str, Any] = {}
    if spec or channels.train:
        trained = _train(channels, spec, progress, services)
        outcome["trained"] = asdict(trained)
        _write(channels.output_dir / "result.json", outcome["trained"])
    elif not (channels.model and channels.eval):
        raise InputError("The job has neither a channel `train` (SM_CHANNEL_TRAIN) nor channels `model` and `eval`.")
    if channels.eval:
        with _bundle(channels, trained="trained" in outcome) as bundle:
            outcome["evaluation"] = _evaluate(bundle, channels)
        _write(channels.output_dir / "evaluation.json", outcome["evaluation"])
    return outcome


def sagemaker_result(job_name: str, *, services: Services | None = None) -> dict[str, Any]:
    """What a finished job of ours left in the archive of its SM_OUTPUT_DATA_DIR."""
    archive = live(services).objects.get(f"{SAGEMAKER_OUTPUT}/{job_name}/output/output.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile("result.json")
        result: dict[str, Any] = json.load(member)  # type: ignore[arg-type]  # KeyError where it is not there
    return result


def _train(channels: Channels, spec: Any, progress: Progress | None, services: Services | None) -> TrainedRef:
    from tire_pipeline.registry.lifecycle import bundle_prefix
    from tire_pipeline.wiring import folder_services

    with tempfile.TemporaryDirectory(prefix="tire-channels-") as tmp:
        s = live(services) if spec else folder_services(Path(tmp), runs=channels.output_dir / "run")
        spec = spec or _spec_of_folder(channels, s, progress)
        trained = train(spec, tags=_document(channels, "tags"), progress=progress, services=s)
        s.objects.download_folder(bundle_prefix(trained.key), channels.model_dir)
    return trained


def _spec_of_folder(channels: Channels, s: Services, progress: Progress | None) -> dict[str, Any]:
    """The spec that the hyperparameters and the folder of the channel `train` make."""
    from tire_pipeline.datasets import snapshots, versions

    options = {k: _value(v) for k, v in channels.hyperparameters.items() if not k.startswith("sagemaker_")}
    candidate = str(options.pop("model_type", "cnn"))
    request = check_request({"dataset_version": "channel", "candidates": [candidate], **options})
    versions.push(s.objects, channels.train, version=request.version, progress=progress)  # type: ignore[arg-type]
    snapshot = snapshots.build(s.objects, request.version, progress=progress)
    classes = sorted(set(snapshot.usable["label"]))
    if len(classes) < 2:
        raise InputError(f"The channel `train` has images of {classes or 'no class'}, but at least two are needed.")
    ref = SnapshotRef(request.version, snapshot.digest, len(snapshot.usable), classes)
    return training_specs(split(ref, seed=request.seed, services=s), request)[0]


def _evaluate(bundle: Path, channels: Channels) -> dict[str, Any]:
    """Metrics with intervals of the bundle on the channel `eval`; each answer goes to `predictions.csv`."""
    import numpy as np

    from tire_pipeline.metrics import with_intervals

    folder = channels.eval or bundle
    labels = _ground_truth(channels)
    answers = [{**a, "path": Path(a["path"]).relative_to(folder).as_posix()} for a in predict([folder], bundle=bundle)]
    rows = [{**a, "truth": labels.get(a["path"]) or Path(a["path"]).parent.name} for a in answers]
    with (channels.output_dir / "predictions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "truth", "label", "probability", "decision", "error"], restval="")
        writer.writeheader()
        writer.writerows({k: row[k] for k in writer.fieldnames if k in row} for row in rows)
    read = [row for row in rows if "error" not in row]
    metrics = with_intervals(_scored(bundle, read), np.arange(len(read)))
    return {"num_images": len(read), "num_unreadable": len(rows) - len(read), "metrics": metrics}


def _scored(bundle: Path, rows: list[dict[str, Any]]) -> Scored:
    import numpy as np

    from tire_pipeline.bundle import Bundle
    from tire_pipeline.metrics import Scored

    loaded = Bundle.load(bundle)
    index = {c: k for k, c in enumerate(loaded.classes)}
    if unknown := sorted({row["truth"] for row in rows} - set(index)):
        raise InputError(
            f"The model knows {', '.join(index)}, but the channel `eval` also has {', '.join(map(repr, unknown))}. "
            "Put images in a folder for each class, or name the labels in SM_GROUND_TRUTH_DIR/labels.csv (path,label)."
        )
    return Scored(
        y_N=np.array([index[row["truth"]] for row in rows]),
        p_NK=np.array([[row["probabilities"][c] for c in loaded.classes] for row in rows]),
        predicted_N=np.array([index[row["label"]] for row in rows]),
        positives=loaded.positives,
    )


def _ground_truth(channels: Channels) -> dict[str, str]:
    """Labels by path from a labels.csv beside or among the images; empty where folders tell."""
    from tire_pipeline.datasets.labels import LABELS_FILE, from_csv, read_text

    for folder in (channels.ground_truth, channels.eval):
        if folder and (file := folder / LABELS_FILE).is_file():
            text = read_text(file.read_bytes(), where=str(file))
            return {p: row.label for p, row in from_csv(text, where=str(file)).items()}
    return {}


@contextmanager
def _bundle(channels: Channels, *, trained: bool) -> Iterator[Path]:
    """The bundle just trained, else the one of the channel `model`, which SageMaker may have brought as an archive."""
    given = channels.model_dir if trained else channels.model or channels.model_dir
    if not (archive := given / "model.tar.gz").is_file():
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="tire-model-") as tmp, tarfile.open(archive) as tar:
        tar.extractall(tmp, filter="data")
        yield Path(tmp)


def _document(channels: Channels, name: str) -> Any:
    """A JSON document that came as hyperparameters `name_0`, `name_1`, …; None for none."""
    pieces: list[str] = []
    while (piece := channels.hyperparameters.get(f"{name}_{len(pieces)}")) is not None:
        pieces.append(piece)
    return json.loads("".join(pieces)) if pieces else None


def _value(text: Any) -> Any:
    """A hyperparameter is a string; SageMaker's SDK writes strings as JSON, people do not."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def _write(file: Path, record: Any) -> None:
    file.write_text(json.dumps(record, indent=1))
