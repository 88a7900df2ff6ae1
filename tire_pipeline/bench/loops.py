"""Loops that train one network on the same pictures: `python -m tire_pipeline.bench.loops LOOP WORK`.

Each runs in a process of its own, from the first image read to the last epoch's validation, and prints a `Training` as
JSON. WORK is what `training.prepare` made; S3 is that of the settings. Imports are not counted. All begin with the
same weights. A name that ends with `_bf16` computes so, the others in fp32.

ours, ours_frozen    `training.loop.fit`: shards, decoded once; frozen: only the head learns, features are kept
timm                 as timm's train.py has it by default: its dataset, loader, SGD and cosine, with channels_last
torchvision          as torchvision's references/classification: ImageFolder, its presets, SGD, with channels_last
naive, naive_frozen  get_object and PIL for each image and epoch, Adam, no channels_last; frozen: only the head learns
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from tire_pipeline.bench.designs import s3_client
from tire_pipeline.bench.measure import Clock, Training
from tire_pipeline.bench.training import SNAPSHOT, Plan, read_plan
from tire_pipeline.datasets.cache import ImageCache, open_images
from tire_pipeline.imaging import IMAGENET_MEAN, IMAGENET_STD
from tire_pipeline.models import Classifier, build
from tire_pipeline.settings import load_settings
from tire_pipeline.stores.objects import connect
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.device import choose
from tire_pipeline.training.loop import Examples, fit

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Way:
    """How a loop computes."""

    bf16: bool = False
    channels_last: bool = False
    label_smoothing: float = 0.0
    after_step: Callable[[], None] = lambda: None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def laid_out(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.contiguous(memory_format=torch.channels_last) if self.channels_last else x_BCHW


def ours(work: Path, plan: Plan, *, bf16: bool = False, frozen: bool = False) -> Training:
    """Our own loop, with the candidate's own recipe."""
    index, store = pd.read_parquet(work / "index.parquet"), connect(load_settings())
    head_alone: dict[str, Any] = {"freeze_epochs": plan.epochs, "augmentation": "none"} if frozen else {}
    config = TrainingConfig.of(
        plan.model_type,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        image_height=plan.side,
        image_width=plan.side,
        threads=plan.threads,
        precision="bf16" if bf16 else "fp32",
        **head_alone,
    )
    labels = np.unique(index["label"], return_inverse=True)[1]
    train, val = (np.flatnonzero(index["side"] == side) for side in ("train", "val"))
    scores: list[tuple[float, float]] = []
    choose(config)  # tries bf16 once a process, in a child
    with tempfile.TemporaryDirectory(dir=work) as folder:
        clock, cache = Clock(), ImageCache(Path(folder))
        images = open_images(store, index, height=plan.side, width=plan.side, how="stretch", cache=cache, name=SNAPSHOT)
        examples = Examples(images, labels.astype(np.int64), train, val, int(labels.max()) + 1)

        def note(_epoch: int, metrics: dict[str, float]) -> None:
            scores.append((clock.seconds(), metrics["val/balanced_accuracy"]))

        fit(examples, config, on_epoch=note)
    return Training(clock.run(plan.epochs * len(train)), scores)


def timm(work: Path, plan: Plan, *, bf16: bool = False) -> Training:
    """train.py's defaults: random resized crop, flip, colour jitter, SGD at 0.1 for 256 images, cosine by updates."""
    # Seconds that the other loops need not wait. timm's packages do not say what they export.
    from timm.data.dataset_factory import create_dataset  # noqa: PLC0415
    from timm.data.loader import create_loader  # noqa: PLC0415
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]  # noqa: PLC0415
    from timm.scheduler.scheduler_factory import create_scheduler_v2  # noqa: PLC0415

    shape, device = (3, plan.side, plan.side), torch.device("cpu")
    model = _network(plan).to(memory_format=torch.channels_last)
    rate = 0.1 * plan.batch_size / 256
    optimizer = create_optimizer_v2(model, opt="sgd", lr=rate, weight_decay=2e-5, momentum=0.9)
    clock = Clock()

    def loader(side: str, *, is_training: bool) -> Batches:
        dataset = create_dataset("", root=str(work / "pictures" / side), is_training=is_training)
        made: Batches = create_loader(
            dataset,
            shape,
            plan.batch_size,
            is_training=is_training,
            interpolation="random" if is_training else "bilinear",
            crop_pct=None if is_training else 1.0,
            num_workers=plan.threads,
            device=device,
            use_prefetcher=False,
        )
        return made

    train, val = loader("train", is_training=True), loader("val", is_training=False)
    updates = len(train)  # type: ignore[arg-type]
    scheduler, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=plan.epochs, step_on_epochs=False, updates_per_epoch=updates
    )
    done = 0

    def after_step() -> None:
        nonlocal done
        scheduler.step_update(num_updates=(done := done + 1))

    return _train(model, train, val, optimizer, plan, clock, Way(bf16, True, 0.1, after_step))


def torchvision(work: Path, plan: Plan, *, bf16: bool = False) -> Training:
    """The reference's defaults: random resized crop and flip, SGD at 0.1 for 256 images with weight decay 1e-4."""
    model = _network(plan).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * plan.batch_size / 256, momentum=0.9, weight_decay=1e-4)
    to_float = [
        transforms.PILToTensor(),
        transforms.ConvertImageDtype(torch.float),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    for_training = [transforms.RandomResizedCrop(plan.side, antialias=True), transforms.RandomHorizontalFlip(0.5)]
    clock = Clock()
    train = DataLoader(
        datasets.ImageFolder(str(work / "pictures" / "train"), transforms.Compose([*for_training, *to_float])),
        plan.batch_size,
        shuffle=True,
        num_workers=plan.threads,
        persistent_workers=True,
    )
    resized = transforms.Resize((plan.side, plan.side), antialias=True)
    val = DataLoader(
        datasets.ImageFolder(str(work / "pictures" / "val"), transforms.Compose([resized, *to_float])),
        plan.batch_size,
        num_workers=plan.threads,
        persistent_workers=True,
    )
    return _train(model, train, val, optimizer, plan, clock, Way(bf16, True))


def naive(work: Path, plan: Plan, *, frozen: bool = False) -> Training:
    """What a first prototype does."""
    index, client, bucket = pd.read_parquet(work / "index.parquet"), s3_client(), load_settings().bucket
    model = _network(plan)
    model.freeze(frozen)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    number = {label: k for k, label in enumerate(sorted(index["label"].unique()))}
    transform = transforms.Compose(
        [
            transforms.Resize((plan.side, plan.side)),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    dice = np.random.default_rng(0)

    class Read:
        def __init__(self, side: str) -> None:
            self.rows = index[index["side"] == side]

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            rows = self.rows.iloc[dice.permutation(len(self.rows))]
            for start in range(0, len(rows), plan.batch_size):
                part = rows.iloc[start : start + plan.batch_size]
                bodies = (client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in part["key"])
                pictures = (Image.open(io.BytesIO(body)).convert("RGB") for body in bodies)
                x_BCHW = torch.stack([transform(picture) for picture in pictures])
                yield x_BCHW, torch.tensor([number[label] for label in part["label"]])

    return _train(model, Read("train"), Read("val"), optimizer, plan, Clock(), Way())


def _train(
    model: Classifier,
    train: Batches,
    val: Batches,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    clock: Clock,
    way: Way,
) -> Training:
    """What all loops but ours are: forward, backward, step, and a validation an epoch."""
    images, scores = 0, []
    for _ in range(plan.epochs):
        model.train()
        for x_BCHW, y_B in train:
            optimizer.zero_grad()
            with way.autocast():
                loss = F.cross_entropy(model(way.laid_out(x_BCHW)), y_B, label_smoothing=way.label_smoothing)
            loss.backward()
            optimizer.step()
            way.after_step()
            images += len(x_BCHW)
        score = _score(model, val, way)
        scores.append((clock.seconds(), score))
    return Training(clock.run(images), scores)


@torch.inference_mode()
def _score(model: nn.Module, val: Batches, way: Way) -> float:
    """Balanced accuracy."""
    model.eval()
    told, right = [], []
    for x_BCHW, y_B in val:
        with way.autocast():
            told.append(model(way.laid_out(x_BCHW)).argmax(dim=1))
        right.append(y_B)
    return float(balanced_accuracy_score(torch.cat(right).numpy(), torch.cat(told).numpy()))


def _network(plan: Plan) -> Classifier:
    return build(plan.model_type, num_classes=plan.num_classes, seed=0, size=(plan.side, plan.side))


LOOPS: dict[str, Callable[[Path, Plan], Training]] = {
    "ours": ours,
    "ours_bf16": partial(ours, bf16=True),
    "timm": timm,
    "timm_bf16": partial(timm, bf16=True),
    "torchvision": torchvision,
    "torchvision_bf16": partial(torchvision, bf16=True),
    "naive": naive,
    "ours_frozen": partial(ours, frozen=True),
    "naive_frozen": partial(naive, frozen=True),
}

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    asked = read_plan(folder)
    torch.set_num_threads(asked.threads)
    sys.stdout.write(json.dumps(asdict(LOOPS[sys.argv[1]](folder, asked))) + "\n")
