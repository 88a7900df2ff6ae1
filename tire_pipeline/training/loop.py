"""The training loop. Tensor names carry shapes: B batch, C channels, H height, W width, K classes, N images."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from tire_pipeline.datasets.cache import Images
from tire_pipeline.errors import Interrupted, OutOfResources, TireError
from tire_pipeline.metrics import Ints, Scored, point
from tire_pipeline.models import build
from tire_pipeline.training.augment import colour, draw_moves, normalise_
from tire_pipeline.training.batches import draw_boxes, load, seed_of
from tire_pipeline.training.checkpoints import Checkpoints
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.device import choose, make_accelerator
from tire_pipeline.training.interruption import StopRequest, stop_requests
from tire_pipeline.training.losses import make_loss, make_mixing
from tire_pipeline.training.memory import Sweeper, ran_out
from tire_pipeline.training.optimization import advance, make_ema, make_optimizer, make_schedule
from tire_pipeline.training.state import EpochMetrics, Progress, State

log = logging.getLogger(__name__)
CPU = torch.device("cpu")
MOST_HALVINGS = 5
OnEpoch = Callable[[int, EpochMetrics], None]


@dataclass(frozen=True)
class Examples:
    """Images uint8 (N, H, W, 3) with class indices (N,), and the rows that are trained on and validated with.

    `paths` (N,) name the images to people, where they have names.
    """

    images_NHWC: Images
    labels_N: Ints
    train: Ints
    val: Ints
    num_classes: int
    paths: Sequence[str] = ()

    def names(self, rows: Ints) -> str:
        return ", ".join(str(self.paths[row]) if len(self.paths) else f"row {row}" for row in rows)


@dataclass
class Fitted:
    """The best epoch's model, in evaluation mode on the CPU, and the metrics of every epoch."""

    model: nn.Module
    history: list[EpochMetrics] = field(default_factory=list)
    best_epoch: int = 0


def fit(
    examples: Examples, config: TrainingConfig, *, on_epoch: OnEpoch, checkpoints: Checkpoints | None = None
) -> Fitted:
    """Train by the configuration and keep the epoch that is best by the monitored metric.

    Goes on from the newest of `checkpoints`, and then tells the epochs before it again. Deterministic on the CPU by
    `config.seed` and `config.threads`, interrupted or not. Raises TireError when the loss is no longer finite, and
    OutOfResources when a checkpoint cannot be written.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    with torch.random.fork_rng():  # dropout draws from the process' generators, and no other can be given to it
        if checkpoints is None:
            return Trainer(examples, config, None, StopRequest()).run(on_epoch)
        with stop_requests() as stop:
            return Trainer(examples, config, checkpoints, stop).run(on_epoch)


class Trainer:
    """One training: what stays as it is, and `state`, which a checkpoint holds."""

    def __init__(
        self, examples: Examples, config: TrainingConfig, checkpoints: Checkpoints | None, stop: StopRequest
    ) -> None:
        choice = choose(config)
        log.info("training %s on %s, %d threads", config.model_type, choice.reason, torch.get_num_threads())
        self.examples, self.config, self.checkpoints, self.stop = examples, config, checkpoints, stop
        self.sweeper = Sweeper()
        self.accelerator = make_accelerator(choice)
        self.device: torch.device = self.accelerator.device
        model = build(config.model_type, num_classes=examples.num_classes, seed=config.seed)
        self.blank = copy.deepcopy(model)
        self.state = self._first_state(model.to(self.device))
        self.optimizer = self.accelerator.prepare_optimizer(self.state.optimizer)
        labels_N = examples.labels_N[examples.train]
        self.loss = make_loss(config, labels_N=labels_N, num_classes=examples.num_classes, device=self.device)
        self.mixing = make_mixing(config, num_classes=examples.num_classes)
        self.since = time.monotonic()

    def run(self, on_epoch: OnEpoch) -> Fitted:
        saved = self.checkpoints.newest() if self.checkpoints else None
        if saved is not None:
            self.state.unpack(*saved)
        progress, config = self.state.progress, self.config
        for epoch, metrics in enumerate(progress.history):
            on_epoch(epoch, metrics)
        while not progress.is_over(epochs=config.epochs, patience=config.patience):
            epoch = progress.epoch
            on_epoch(epoch, self._epoch())
        return self._fitted()

    def _first_state(self, model: nn.Module) -> State:
        config = self.config
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)
        ema = make_ema(model, config)
        if config.compile:
            model.compile()
        optimizer = make_optimizer(list(model.parameters()), config, rate=config.learning_rate)
        steps = num_batches(len(self.examples.train), config.batch_size)
        return State(
            model=model,
            wrapped=self.accelerator.prepare_model(model),
            ema=ema,
            optimizer=optimizer,
            schedule=make_schedule(optimizer, config, epochs=config.epochs, steps_per_epoch=steps),
            accelerator=self.accelerator,
            progress=Progress(parts=config.accumulation),
        )

    def _epoch(self) -> EpochMetrics:
        """Train the rest of an epoch and measure it; the next one is then due."""
        state, progress, num_images = self.state, self.state.progress, len(self.examples.train)
        self._train()
        metrics = {"train/loss": progress.loss_sum / num_images, **_validate(state.measured, self.examples, self)}
        metrics["train/images_per_s"] = num_images / (progress.seconds + time.monotonic() - self.since)
        value = metrics[metric_name(self.config.monitor)]
        advance(state.schedule, epoch_metric=value)
        if progress.ends_epoch(metrics, value=value, monitor=self.config.monitor):
            state.keep_best()
        self._save()
        self._obey()
        return metrics

    def _train(self) -> None:
        """The batches of the epoch that are not done. Order, augmentation and dropout follow from seed and epoch."""
        state, progress, checkpoints = self.state, self.state.progress, self.checkpoints
        self.since = time.monotonic()
        if progress.step == 0:
            state.dice.manual_seed(seed_of(self.config.seed, progress.epoch, "colours"))
            torch.manual_seed(seed_of(self.config.seed, progress.epoch, "dropout"))
        state.wrapped.train()
        for rows, loaded_BCHW in self._batches():
            progress.loss_sum += self._step(rows, loaded_BCHW) * len(rows)
            progress.step += 1
            if checkpoints is not None and checkpoints.due(progress.step) and not self.stop:
                self._save()
            self._obey()

    def _batches(self) -> Iterator[tuple[Ints, Tensor]]:
        """Rows and images, uint8 (B, C, H, W), of the epoch's batches from the next step on."""
        examples, config, progress = self.examples, self.config, self.state.progress
        generator = torch.Generator().manual_seed(seed_of(config.seed, progress.epoch, "images"))
        order = examples.train[torch.randperm(len(examples.train), generator=generator).numpy()]
        parts = list(split_batches(order, config.batch_size))
        boxes, (height, width) = None, examples.images_NHWC.shape[1:3]
        if config.augmentation == "crop":
            boxes = [draw_boxes(len(rows), height=height, width=width, generator=generator) for rows in parts]
        draw = partial(draw_moves, policy=config.augmentation, height=height, width=width, generator=generator)
        moves = [draw(len(rows)) for rows in parts]
        done = progress.step
        boxes, moves, parts = boxes and boxes[done:], moves[done:], parts[done:]
        return zip(parts, load(examples.images_NHWC, parts, boxes=boxes, moves=moves, device=self.device), strict=True)

    def _step(self, rows: Ints, loaded_BCHW: Tensor) -> float:
        """Change the weights by one batch; its mean loss before."""
        state, config = self.state, self.config
        loss = self._gradients_that_fit(rows, loaded_BCHW)
        if not math.isfinite(loss):
            raise self._diverged(f"The loss of {config.model_type} became {loss}", rows)
        if config.gradient_clip:
            self.accelerator.clip_grad_norm_(state.model.parameters(), config.gradient_clip)
        self.optimizer.step()
        if not self.optimizer.step_was_skipped:
            advance(state.schedule)
        if state.ema is not None:
            state.ema.update_parameters(state.model)
        return loss

    def _gradients_that_fit(self, rows: Ints, loaded_BCHW: Tensor) -> float:
        """The gradients of a batch in as many parts as memory asks for: twice as many each time it runs out."""
        state, progress = self.state, self.state.progress
        state.mark()
        for halvings in range(MOST_HALVINGS + 1):
            try:
                return self._gradients(rows, loaded_BCHW)
            except (MemoryError, RuntimeError) as error:
                if not ran_out(error) or self.accelerator.num_processes > 1:
                    raise
                said = str(error).splitlines()[0]
            state.return_to_mark()
            self.sweeper.sweep()
            if halvings < MOST_HALVINGS and 4 * progress.parts <= self.config.batch_size:
                progress.parts *= 2
                log.warning("memory ran out (%s): a batch is now cut into %d parts", said, progress.parts)
            else:
                break
        raise OutOfResources(
            f"Memory does not suffice for {self.config.model_type}, with a batch of {self.config.batch_size} cut into "
            f"{progress.parts} parts ({said}). Use a smaller --batch-size or image, or a machine with more memory."
        )

    def _gradients(self, rows: Ints, loaded_BCHW: Tensor) -> float:
        """Add up the gradients of a batch, part by part; the mean loss, and at once where it is not finite."""
        state, total = self.state, 0.0
        x_BCHW = colour(loaded_BCHW.to(self.device), policy=self.config.augmentation, generator=state.dice)
        x_BCHW, y = normalise_(x_BCHW), torch.from_numpy(self.examples.labels_N[rows]).to(self.device)
        if self.mixing is not None:
            x_BCHW, y = self.mixing(x_BCHW, y)
        self.optimizer.zero_grad(set_to_none=True)
        parts = min(state.progress.parts, len(x_BCHW) // 2)
        pairs = list(zip(x_BCHW.tensor_split(parts), y.tensor_split(parts), strict=True))
        for number, (x_part_BCHW, y_part) in enumerate(pairs, start=1):
            alone = contextlib.nullcontext() if number == parts else self.accelerator.no_sync(state.wrapped)
            with alone:
                loss = self.loss(state.wrapped(x_part_BCHW), y_part) / len(x_BCHW)
                total += loss.item()
                if not math.isfinite(total):
                    break
                self.accelerator.backward(loss)
            if number < parts:
                self._obey(mid_step=True)
        return total

    def _obey(self, *, mid_step: bool = False) -> None:
        """Stop here if somebody asked: a step that was begun is begun again by whoever goes on."""
        if not self.stop:
            return
        if mid_step:
            self.state.return_to_mark()
        self._save(urgent=True)
        progress = self.state.progress
        raise Interrupted(
            f"{self.stop.signal_name} stopped the training of {self.config.model_type} in epoch {progress.epoch + 1}, "
            f"after {progress.step} steps. Run the command again with --resume to go on from there."
        )

    def _save(self, *, urgent: bool = False) -> None:
        """A checkpoint from which the training goes on exactly here."""
        if self.checkpoints is None:
            return
        progress, now = self.state.progress, time.monotonic()
        if progress.step:
            progress.seconds, self.since = progress.seconds + now - self.since, now
        if not all(torch.isfinite(p).all() for p in self.state.model.parameters()):
            raise self._diverged(f"A weight of {self.config.model_type} is no longer a number", None)
        self.checkpoints.save(*self.state.pack(), epoch=progress.epoch, step=progress.step, urgent=urgent)

    def _diverged(self, what: str, rows: Ints | None) -> TireError:
        progress, config = self.state.progress, self.config
        batch = "" if rows is None else f" The batch: {self.examples.names(rows)}."
        return TireError(
            f"{what} in epoch {progress.epoch + 1}, step {progress.step + 1}. Lower --learning-rate (it is "
            f"{config.learning_rate:g}), or look at the images.{batch}"
        )

    def _fitted(self) -> Fitted:
        progress, config = self.state.progress, self.config
        if progress.best_epoch < 0:
            raise TireError(
                f"The validation {metric_name(config.monitor).removeprefix('val/')} of {config.model_type} was never a "
                f"number in {progress.epoch} epochs. Lower --learning-rate (it is {config.learning_rate:g})."
            )
        self.blank.load_state_dict(self.state.best)
        return Fitted(self.blank.eval(), progress.history, progress.best_epoch)


@torch.inference_mode()
def predict_logits(model: nn.Module, images_NHWC: Images, rows: Ints, device: torch.device = CPU) -> Tensor:
    """Logits (len(rows), K) of the rows, float32 on the CPU; the model is left in evaluation mode."""
    model.eval()
    loaded = load(images_NHWC, list(split_batches(rows, 64)), device=device)
    return torch.cat([model(normalise_(x_BCHW.to(device).float())).float().cpu() for x_BCHW in loaded])


def metric_name(monitor: str) -> str:
    """What a metric is called in an epoch's metrics."""
    return "val/loss" if monitor == "log_loss" else f"val/{monitor}"


def split_batches(rows: Ints, size: int) -> Iterator[Ints]:
    """Near-equal parts of at most `size` (3 where it is 2): none of one image, which batch norm cannot take."""
    yield from np.array_split(rows, num_batches(len(rows), size))


def num_batches(num_images: int, size: int) -> int:
    return max(1, min(math.ceil(num_images / size), num_images // 2))


def _validate(model: nn.Module, examples: Examples, trainer: Trainer) -> EpochMetrics:
    with trainer.accelerator.autocast():
        logits_NK = predict_logits(model, examples.images_NHWC, examples.val, trainer.device)
    p_NK, y_N = logits_NK.softmax(dim=1).numpy(), examples.labels_N[examples.val]
    metrics = point(Scored(y_N, p_NK, p_NK.argmax(axis=1), None))
    return {"val/loss": metrics.pop("log_loss"), **{f"val/{k}": v for k, v in metrics.items()}}
