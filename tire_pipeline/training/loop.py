"""The training loop. Tensor names carry shapes: B batch, C channels, H height, W width, K classes, N images."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tire_pipeline.errors import Interrupted, TireError
from tire_pipeline.metrics import Ints, Scored, point
from tire_pipeline.models import Classifier
from tire_pipeline.training.batches import seed_of
from tire_pipeline.training.checkpoints import Checkpoints
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.device import choose, make_accelerator
from tire_pipeline.training.examples import Examples, make_source, num_batches, predict_logits
from tire_pipeline.training.gradients import Gradients
from tire_pipeline.training.interruption import StopRequest, stop_requests
from tire_pipeline.training.losses import make_loss, make_mixing
from tire_pipeline.training.memory import memory_errors
from tire_pipeline.training.network import build_network
from tire_pipeline.training.optimization import advance, make_ema, make_optimizer, make_schedule
from tire_pipeline.training.processes import put_together, rows_of, share_norms, summed
from tire_pipeline.training.state import EpochMetrics, Progress, State, metric_name

__all__ = ["EpochMetrics", "Examples", "Fitted", "fit", "predict_logits"]

log = logging.getLogger(__name__)
OnEpoch = Callable[[int, EpochMetrics], None]


@dataclass
class Fitted:
    """The best epoch's model, in evaluation mode on the CPU, the metrics of every epoch, and in how many parts a batch
    was computed at the end."""

    model: Classifier
    history: list[EpochMetrics] = field(default_factory=list)
    best_epoch: int = 0
    parts: int = 1


def fit(
    examples: Examples,
    config: TrainingConfig,
    *,
    weights: Path | None = None,
    on_epoch: OnEpoch,
    checkpoints: Checkpoints | None = None,
) -> Fitted:
    """Train by the configuration, from the pretrained weights in the file `weights` where it has such, and keep the
    epoch that is best by the monitored metric.

    Goes on from the newest of `checkpoints`, and then tells the epochs before it again; with them a signal to stop
    saves first, and raises Interrupted. Deterministic on the CPU by `config.seed` and `config.threads`, interrupted or
    not. Raises TireError when the loss is no longer finite, and OutOfResources when memory does not suffice or a
    checkpoint cannot be written.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    listening = stop_requests() if checkpoints is not None else contextlib.nullcontext(StopRequest())
    # Dropout draws from the process' generators, and no other can be given to it.
    with torch.random.fork_rng(), listening as stop, memory_errors(config.model_type):
        return Trainer(examples, config, weights, checkpoints, stop).run(on_epoch)


class Trainer:
    """One training: what stays as it is, and `state`, which a checkpoint holds."""

    def __init__(
        self,
        examples: Examples,
        config: TrainingConfig,
        weights: Path | None,
        checkpoints: Checkpoints | None,
        stop: StopRequest,
    ) -> None:
        choice = choose(config)
        log.info("training %s on %s, %d threads", config.model_type, choice.reason, torch.get_num_threads())
        self.examples, self.config, self.checkpoints, self.stop = examples, config, checkpoints, stop
        self.accelerator = make_accelerator(choice)
        self.device: torch.device = self.accelerator.device
        num_classes = examples.num_classes
        combined = examples.membership_KV
        self.model = build_network(config, num_classes=num_classes, membership_KV=combined, weights=weights)
        self.blank = copy.deepcopy(self.model)
        labels_N = examples.labels_N[examples.train]
        loss = make_loss(config, labels_N=labels_N, num_classes=num_classes, device=self.device)
        mixing = make_mixing(config, num_classes=num_classes)
        self.gradients = Gradients(config, self.accelerator, loss, mixing, self._obey_within_a_step)
        self.since = time.monotonic()
        self.state = self._first_state()

    def run(self, on_epoch: OnEpoch) -> Fitted:
        config, saved = self.config, None
        if self.checkpoints is not None:
            with self.accelerator.main_process_first():  # which may have to delete older ones, or to download one
                saved = self.checkpoints.newest()
        if saved is not None:
            self.state.progress = Progress(**saved[1]["progress"])
        self._begin_phase()
        if saved is not None:
            self.state.unpack(*saved)
        progress = self.state.progress
        for epoch, metrics in enumerate(progress.history):
            on_epoch(epoch, metrics)
        while not progress.is_over(epochs=config.epochs, patience=config.patience):
            if self.state.frozen != self._frozen():
                self._begin_phase()
            epoch = progress.epoch
            on_epoch(epoch, self._epoch())
        return self._fitted()

    def _first_state(self) -> State:
        model = self.model.to(self.device)
        if self.config.channels_last:
            model = model.to(memory_format=torch.channels_last)
        ema = make_ema(model, self.config)
        if self.accelerator.num_processes > 1:
            share_norms(model)
        if self.config.compile:
            model.compile()
        return State(model, ema, self.accelerator, Progress(parts=self.config.accumulation))

    @property
    def _alone(self) -> bool:
        return bool(self.accelerator.num_processes == 1)

    def _frozen(self) -> bool:
        return self.state.progress.epoch < self.config.freeze_epochs

    def _begin_phase(self) -> None:
        """Freeze the backbone, or let it learn with a rate of its own, each with an optimizer and a schedule anew."""
        state, config, frozen = self.state, self.config, self._frozen()
        epochs = min(config.freeze_epochs, config.epochs) if frozen else max(1, config.epochs - config.freeze_epochs)
        rate = config.learning_rate * (config.unfreeze_factor if config.freeze_epochs and not frozen else 1)
        state.frozen = frozen
        for model in (state.model, state.measured):
            model.freeze(frozen)
        with self.accelerator.autocast():
            self.source = make_source(self.examples, config, state.model, self.device)
        state.wrapped = self.accelerator.prepare_model(self.source.part(state.model))
        state.optimizer = make_optimizer([p for p in state.model.parameters() if p.requires_grad], config, rate=rate)
        steps = num_batches(len(self.examples.train), config.batch_size)
        state.schedule = make_schedule(state.optimizer, config, epochs=epochs, steps_per_epoch=steps)
        self.optimizer = self.accelerator.prepare_optimizer(state.optimizer)

    def _epoch(self) -> EpochMetrics:
        """Train the rest of an epoch and measure it; the next one is then due."""
        state, progress, num_images = self.state, self.state.progress, len(self.examples.train)
        self._train()
        metrics = {"train/loss": progress.loss_sum / num_images, **_validate(state.measured, self)}
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
            seed, own = self.config.seed, f"dropout {self.accelerator.process_index}"
            state.dice.manual_seed(seed_of(seed, progress.epoch, "colours"))
            torch.manual_seed(seed_of(seed, progress.epoch, own))
        state.model.train()
        for rows, read in self.source.batches(progress.epoch, done=progress.step):
            progress.loss_sum += self._step(rows, read) * len(rows)
            progress.step += 1
            if checkpoints is not None and self._alone and checkpoints.due(progress.step) and not self.stop:
                self._save()
            self._obey()

    def _step(self, rows: Ints, read: Tensor) -> float:
        """Change the weights by one batch; its mean loss before."""
        state, config = self.state, self.config
        y_B = torch.from_numpy(self.examples.labels_N[rows]).to(self.device)
        loss = self.gradients.add(state, self.source, read, y_B)
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

    def _obey_within_a_step(self) -> None:
        """A step that was begun is given up: whoever goes on begins it again."""
        if self.stop and self._alone:
            self.state.return_to_mark()
            self._obey()

    def _obey(self) -> None:
        """Stop here if somebody asked."""
        if not summed(bool(self.stop), self.accelerator):
            return
        self._save(urgent=True)
        progress = self.state.progress
        raise Interrupted(
            f"{self.stop.signal_name or 'Another process'} stopped the training of {self.config.model_type} in epoch "
            f"{progress.epoch + 1}, after {progress.step} steps. Run the command again with --resume to go on from "
            "there."
        )

    def _save(self, *, urgent: bool = False) -> None:
        """A checkpoint from which the training goes on exactly here; of several processes the first one writes it, and
        within an epoch none does, because the others' dice are not in it."""
        if self.checkpoints is None or not self.accelerator.is_main_process:
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
        return Fitted(self.blank.eval(), progress.history, progress.best_epoch, progress.parts)


def _validate(model: Classifier, trainer: Trainer) -> EpochMetrics:
    examples = trainer.examples
    with trainer.accelerator.autocast():
        mine_BK = trainer.source.logits(model, rows_of(examples.val, trainer.accelerator))
    logits_NK = put_together(mine_BK, len(examples.val), trainer.accelerator)
    p_NK, y_N = logits_NK.softmax(dim=1).numpy(), examples.labels_N[examples.val]
    metrics = point(Scored(y_N, p_NK, p_NK.argmax(axis=1)))
    return {"val/loss": metrics.pop("log_loss"), **{f"val/{k}": v for k, v in metrics.items()}}
