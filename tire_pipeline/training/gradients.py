"""The gradients of a batch, in as many parts as memory asks for."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from tire_pipeline.errors import OutOfResources
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.examples import Source
from tire_pipeline.training.losses import Loss, Mixing
from tire_pipeline.training.memory import Sweeper, ran_out
from tire_pipeline.training.processes import share_of, summed
from tire_pipeline.training.state import State

log = logging.getLogger(__name__)

MOST_HALVINGS = 5


@dataclass
class Gradients:
    """How a batch becomes gradients. `between_parts` is called after each part but the last, and may raise: the state
    can then be returned to its mark."""

    config: TrainingConfig
    accelerator: Accelerator
    loss: Loss
    mixing: Mixing | None
    between_parts: Callable[[], None]
    sweeper: Sweeper = field(default_factory=Sweeper)

    def add(self, state: State, source: Source, read: Tensor, y_B: Tensor) -> float:
        """Leave the batch's gradients in the model; its mean loss.

        Where memory runs out the batch is begun again in twice as many parts, in this step and from then on. Raises
        OutOfResources when five times did not suffice. Not with several processes: the others would wait for ever.
        """
        state.mark()
        for halvings in range(MOST_HALVINGS + 1):
            try:
                return self._add(state, source, read, y_B)
            except (MemoryError, RuntimeError) as error:
                if not ran_out(error) or self.accelerator.num_processes > 1:
                    raise
                said = str(error).splitlines()[0] if str(error) else type(error).__name__
            state.return_to_mark()
            self.sweeper.sweep()
            if halvings == MOST_HALVINGS or 4 * state.progress.parts > self.config.batch_size:
                break
            state.progress.parts *= 2
            log.warning("memory ran out (%s): a batch is cut into %d parts from now on", said, state.progress.parts)
        raise OutOfResources(
            f"Memory does not suffice for {self.config.model_type}, with a batch of {self.config.batch_size} cut into "
            f"{state.progress.parts} parts ({said}). Use a smaller --batch-size or image, or a machine with more "
            "memory."
        )

    def _add(self, state: State, source: Source, read: Tensor, y_B: Tensor) -> float:
        """Part by part; at once where the loss is not finite. Of several processes each takes its share of the batch,
        and the mean of their gradients, which is what they agree on, is the whole batch's."""
        x, y = self._mixed(source.inputs(read, state.dice), y_B, state.dice)
        total, num_images, processes = 0.0, len(x), self.accelerator.num_processes
        state.optimizer.zero_grad(set_to_none=True)
        parts = max(1, min(state.progress.parts, num_images // processes // 2))
        x_share, y_share = share_of(x, self.accelerator), share_of(y, self.accelerator)
        pairs = zip(x_share.tensor_split(parts), y_share.tensor_split(parts), strict=True)
        for number, (x_part, y_part) in enumerate(pairs, start=1):
            alone = contextlib.nullcontext() if number == parts else self.accelerator.no_sync(state.wrapped)
            with alone:
                loss = self.loss(state.wrapped(x_part), y_part) / num_images
                total += summed(loss.item(), self.accelerator)
                if not math.isfinite(total):
                    return total
                self.accelerator.backward(loss * processes)
            if number < parts:
                self.between_parts()
        return total

    def _mixed(self, x: Tensor, y_B: Tensor, dice: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mixed by dice that every process throws the same way, while those of dropout are its own."""
        if self.mixing is None:
            return x, y_B
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=dice)))
            return self.mixing(x, y_B)
