"""The training loop. Tensor names carry shapes: B batch, C channels, H height, W width, K classes, N images."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tire_pipeline.datasets.cache import Images
from tire_pipeline.errors import TireError
from tire_pipeline.metrics import Ints, Scored, point
from tire_pipeline.models import Classifier
from tire_pipeline.training.augment import colour, draw_moves, normalise_
from tire_pipeline.training.batches import draw_boxes, load, seed_of
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.network import build_network

log = logging.getLogger(__name__)
EpochMetrics = dict[str, float]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Examples:
    """Images uint8 (N, H, W, 3) with class indices (N,), and the rows that are trained on and validated with."""

    images_NHWC: Images
    labels_N: Ints
    train: Ints
    val: Ints
    num_classes: int


@dataclass
class Fitted:
    """The best epoch's model, in evaluation mode on the CPU, and the metrics of every epoch."""

    model: Classifier
    history: list[EpochMetrics] = field(default_factory=list)
    best_epoch: int = 0


def fit(
    examples: Examples,
    config: TrainingConfig,
    *,
    weights: Path | None = None,
    on_epoch: Callable[[int, EpochMetrics], None],
) -> Fitted:
    """Train by the configuration, from the pretrained weights in the file `weights` where it has such, and keep the
    epoch with the lowest validation loss.

    Deterministic on the CPU by `config.seed` and `config.threads`. Raises TireError when the loss is no longer finite.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    with torch.random.fork_rng():  # dropout draws from the process' generators, and no other can be given to it
        return _fit(examples, config, weights, on_epoch)


def _fit(
    examples: Examples,
    config: TrainingConfig,
    weights: Path | None,
    on_epoch: Callable[[int, EpochMetrics], None],
) -> Fitted:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    log.info("training %s on %s, %d threads", config.model_type, device, torch.get_num_threads())
    model = build_network(config, num_classes=examples.num_classes, weights=weights)
    model = model.to(device).to(memory_format=torch.channels_last)
    steps = config.epochs * _num_batches(len(examples.train), config.batch_size)
    optimizer = _optimizer(model, config)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps, pct_start=0.2)
    fitted, best_loss = Fitted(model), math.inf
    for epoch in range(config.epochs):
        start = time.monotonic()
        loss = _train_epoch(model, examples, config, optimizer, scheduler, epoch, device)
        metrics = {"train/loss": loss, **_validate(model, examples, device)}
        metrics["train/images_per_s"] = len(examples.train) / (time.monotonic() - start)
        fitted.history.append(metrics)
        on_epoch(epoch, metrics)
        if metrics["val/loss"] < best_loss:
            best_loss, fitted.best_epoch = metrics["val/loss"], epoch
            fitted.model = copy.deepcopy(model)
    if best_loss == math.inf:
        raise TireError(
            f"The validation loss of {config.model_type} was never a number in {config.epochs} epochs. Lower "
            f"--learning-rate (it is {config.learning_rate:g})."
        )
    fitted.model.to("cpu").to(memory_format=torch.contiguous_format).eval()
    return fitted


def _train_epoch(
    model: Classifier,
    examples: Examples,
    config: TrainingConfig,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    epoch: int,
    device: torch.device,
) -> float:
    """One pass over the training rows; the mean loss. Order, augmentation and dropout follow from seed and epoch."""
    model.train()
    total = 0.0
    torch.manual_seed(seed_of(config.seed, epoch, "dropout"))
    generator = torch.Generator().manual_seed(seed_of(config.seed, epoch, "images"))
    order = examples.train[torch.randperm(len(examples.train), generator=generator).numpy()]
    parts = list(_batches(order, config.batch_size))
    boxes, (height, width) = None, examples.images_NHWC.shape[1:3]
    if config.augmentation == "crop":
        boxes = [draw_boxes(len(rows), height=height, width=width, generator=generator) for rows in parts]
    draw = partial(draw_moves, policy=config.augmentation, height=height, width=width, generator=generator)
    moves = [draw(len(rows)) for rows in parts]
    loaded = load(examples.images_NHWC, parts, boxes=boxes, moves=moves, device=device)
    for rows, loaded_BCHW in zip(parts, loaded, strict=True):
        x_BCHW = colour(loaded_BCHW.to(device), policy=config.augmentation, generator=generator)
        y_B = torch.from_numpy(examples.labels_N[rows]).to(device)
        loss = _loss(model(normalise_(x_BCHW, mean=model.mean, std=model.std)), y_B, config)
        if not torch.isfinite(loss):
            raise TireError(
                f"The loss of {config.model_type} became {loss.item()} after {total:.3g} summed so far. Lower "
                f"--learning-rate (it is {config.learning_rate:g}), or look at the images of this batch."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.item() * len(rows)
    return total / len(order)


@torch.inference_mode()
def predict_logits(model: Classifier, images_NHWC: Images, rows: Ints, device: torch.device = CPU) -> Tensor:
    """Logits (len(rows), K) of the rows, float32 on the CPU; the model is left in evaluation mode."""
    model.eval()
    loaded = load(images_NHWC, list(_batches(rows, 64)), device=device)
    inputs = (normalise_(x_BCHW.to(device).float(), mean=model.mean, std=model.std) for x_BCHW in loaded)
    return torch.cat([model(x_BCHW).float().cpu() for x_BCHW in inputs])


def _validate(model: Classifier, examples: Examples, device: torch.device) -> EpochMetrics:
    logits_NK = predict_logits(model, examples.images_NHWC, examples.val, device)
    p_NK, y_N = logits_NK.softmax(dim=1).numpy(), examples.labels_N[examples.val]
    metrics = point(Scored(y_N, p_NK, p_NK.argmax(axis=1), None))
    return {"val/loss": metrics.pop("log_loss"), **{f"val/{k}": v for k, v in metrics.items()}}


def _optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Weight decay on matrices and filters alone, not on biases and norms (He et al., CVPR 2019, §3.1)."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    if config.optimizer_type == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True)
    kind = torch.optim.AdamW if config.optimizer_type == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.learning_rate)


def _loss(logits_BK: Tensor, y_B: Tensor, config: TrainingConfig) -> Tensor:
    """Cross-entropy, or focal loss with γ = 2 (Lin et al., ICCV 2017)."""
    losses_B = F.cross_entropy(logits_BK, y_B, label_smoothing=config.label_smoothing, reduction="none")
    if config.loss == "focal":
        losses_B = losses_B * (1 - logits_BK.softmax(dim=1).gather(1, y_B[:, None])[:, 0]) ** 2
    return losses_B.mean()


def _batches(rows: Ints, size: int) -> Iterator[Ints]:
    """Near-equal parts of at most `size` (3 where it is 2): none of one image, which batch norm cannot take."""
    yield from np.array_split(rows, _num_batches(len(rows), size))


def _num_batches(num_images: int, size: int) -> int:
    return max(1, min(math.ceil(num_images / size), num_images // 2))
