"""What turns gradients into weights: the optimizer, the schedule of its rate, and a running mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tire_pipeline.metrics import better
from tire_pipeline.training.config import TrainingConfig

Schedule = LRScheduler | ReduceLROnPlateau

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": partial(torch.optim.NAdam, decoupled_weight_decay=True),
    "radam": partial(torch.optim.RAdam, decoupled_weight_decay=True),
    "rmsprop": partial(torch.optim.RMSprop, momentum=0.9),
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}


def make_optimizer(parameters: Sequence[nn.Parameter], config: TrainingConfig, *, rate: float) -> torch.optim.Optimizer:
    """Weight decay on matrices and filters alone, not on biases and norms (He et al., CVPR 2019, §3.1)."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[config.optimizer_type]([g for g in groups if g["params"]], lr=rate)


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, *, epochs: int, steps_per_epoch: int
) -> Schedule:
    """The course of the rate over `epochs`: the optimizer's own rate is the highest."""
    if config.scheduler == "one_cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        steps = epochs * steps_per_epoch
        rise = 0.25 if steps == 5 else 0.2  # torch divides by the steps of the rise but one: a fifth of five is one
        return OneCycleLR(optimizer, rates, total_steps=steps, pct_start=rise)
    if config.scheduler == "plateau":
        mode: Literal["min", "max"] = "min" if better(config.monitor, 0, 1) else "max"
        return ReduceLROnPlateau(optimizer, mode, factor=config.step_factor, patience=config.step_epochs)

    def factor(step: int) -> float:
        return rate_factor(step, config, epochs=epochs, steps_per_epoch=steps_per_epoch)

    return LambdaLR(optimizer, factor)


def rate_factor(step: int, config: TrainingConfig, *, epochs: int, steps_per_epoch: int) -> float:
    """The share of the highest rate at a step, 0 to 1, for cosine, step and constant.

    Cosine falls to nothing without restarts (Loshchilov & Hutter, ICLR 2017); the warm-up before it is a straight line.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / warmup
    if config.scheduler == "cosine":
        done = (step - warmup) / max(1, epochs * steps_per_epoch - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if config.scheduler == "step":
        return float(config.step_factor ** ((step - warmup) // (config.step_epochs * steps_per_epoch)))
    return 1.0


def advance(schedule: Schedule, *, epoch_metric: float | None = None) -> None:
    """Move the schedule on: after every step without `epoch_metric`, and after every epoch with it."""
    if isinstance(schedule, ReduceLROnPlateau):
        if epoch_metric is not None:
            schedule.step(epoch_metric)
    elif epoch_metric is None:
        schedule.step()


def make_ema(model: nn.Module, config: TrainingConfig) -> AveragedModel | None:
    """The running mean of the weights and of what batch norms remember, or None."""
    if not config.ema_decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
