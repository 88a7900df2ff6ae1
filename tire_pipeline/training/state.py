"""All that a training changes as it goes: what a checkpoint saves, and a resumption brings back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tire_pipeline.metrics import better
from tire_pipeline.models import Classifier
from tire_pipeline.training.optimization import Schedule

EpochMetrics = dict[str, float]


def metric_name(monitor: str) -> str:
    """What a metric is called in an epoch's metrics."""
    return "val/loss" if monitor == "log_loss" else f"val/{monitor}"


def kept_metrics(metrics: EpochMetrics) -> EpochMetrics:
    """The validation metrics of the epoch that is kept, under the names that say so."""
    return {name.replace("val/", "kept/"): value for name, value in metrics.items() if name.startswith("val/")}


@dataclass
class Progress:
    """Where a training is: in `epoch`, of which `step` batches are done with losses that sum to `loss_sum`.

    `parts` is into how many a batch is cut; `best_value` the monitored metric's in `best_epoch` (-1: none yet).
    """

    parts: int
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    best_epoch: int = -1
    best_value: float | None = None
    history: list[EpochMetrics] = field(default_factory=list)

    def ends_epoch(self, metrics: EpochMetrics, *, monitor: str, value: float) -> bool:
        """Take the epoch's metrics down and go to the next; whether it is the best so far. NaN never is."""
        is_best = value == value and (self.best_value is None or better(monitor, value, self.best_value))
        if is_best:
            self.best_epoch, self.best_value = self.epoch, value
        self.history.append(metrics)
        self.epoch, self.step, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        return is_best

    def is_over(self, *, epochs: int, patience: int) -> bool:
        """Whether all epochs are done, or `patience` of them (0: any number) without a better one."""
        waited = self.epoch - 1 - self.best_epoch
        return self.epoch >= epochs or bool(patience and self.step == 0 and waited >= patience)


@dataclass
class State:
    """The parts of a training that change. `best` are the weights of the best epoch; `dice` what colours are drawn by.

    While the backbone is `frozen` and after, there are other ones of `wrapped`, which is what of the model is called in
    training, `optimizer` and `schedule`.
    """

    model: Classifier
    ema: AveragedModel | None
    accelerator: Accelerator
    progress: Progress
    frozen: bool = False
    wrapped: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    schedule: Schedule = field(init=False)
    best: dict[str, Tensor] = field(default_factory=dict)
    dice: torch.Generator = field(default_factory=torch.Generator)
    _mark: dict[str, Tensor] = field(default_factory=dict)

    @property
    def measured(self) -> Classifier:
        """The model that is validated and kept."""
        return self.model if self.ema is None else cast("Classifier", self.ema.module)

    def keep_best(self) -> None:
        self.best = {name: t.detach().clone() for name, t in self.measured.state_dict().items()}

    def mark(self) -> None:
        """Remember what a forward pass changes: dice, and what batch norms remember."""
        buffers = {name: b.detach().clone() for name, b in self.model.named_buffers()}
        self._mark = {**_prefixed("dice", _dice(self.dice)), **_prefixed("buffer", buffers)}

    def return_to_mark(self) -> None:
        """Be as when `mark` was called, so long as no weight was changed since."""
        _set_dice(self.dice, _under("dice", self._mark))
        buffers = dict(self.model.named_buffers())
        for name, value in _under("buffer", self._mark).items():
            buffers[name].copy_(value)
        self.optimizer.zero_grad(set_to_none=True)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and numbers (JSON) from which `unpack` makes the same state."""
        optimizer_tensors, optimizer_numbers = _pack_optimizer(self.optimizer)
        tensors = {
            **_prefixed("model", self.model.state_dict()),
            **_prefixed("ema", self.ema.state_dict() if self.ema else {}),
            **_prefixed("best", self.best),
            **_prefixed("optimizer", optimizer_tensors),
            **_prefixed("dice", _dice(self.dice)),
        }
        scaler = self.accelerator.scaler
        numbers = {
            "progress": asdict(self.progress),
            "frozen": self.frozen,
            "optimizer": optimizer_numbers,
            "schedule": self.schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
        }
        return tensors, numbers

    def unpack(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Become the packed state. The process' own dice are set as well. Optimizer and schedule of a phase that ended
        with the checkpoint stay behind."""
        self.progress = Progress(**numbers["progress"])
        self.model.load_state_dict(_under("model", tensors))
        if self.ema is not None:
            self.ema.load_state_dict(_under("ema", tensors))
        device = self.accelerator.device
        self.best = {name: t.to(device) for name, t in _under("best", tensors).items()}
        if numbers["frozen"] == self.frozen:
            _unpack_optimizer(self.optimizer, _under("optimizer", tensors), numbers["optimizer"])
            self.schedule.load_state_dict(dict(numbers["schedule"]))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(dict(numbers["scaler"]))
        _set_dice(self.dice, _under("dice", tensors))


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": t for name, t in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def _pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Its tensors as `<parameter>.<name>`, and everything else."""
    packed = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    rest: dict[str, dict[str, Any]] = {}
    for number, values in packed["state"].items():
        tensors |= {f"{number}.{name}": v for name, v in values.items() if isinstance(v, Tensor)}
        rest[str(number)] = {name: v for name, v in values.items() if not isinstance(v, Tensor)}
    return tensors, {"groups": packed["param_groups"], "rest": rest}


def _unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """What belongs to a weight gets the weight's memory layout, as it had it: another one may add in another order."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {int(number): dict(rest) for number, rest in numbers["rest"].items()}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        weight = weights[int(number)]
        if tensor.shape == weight.shape and tensor.ndim:
            tensor = torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": list(numbers["groups"])})


def _dice(own: torch.Generator) -> dict[str, Tensor]:
    """The states of the generators: our own, and those of the process, which dropout and mixing draw from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"own": own.get_state(), "cpu": torch.get_rng_state(), **{f"cuda{i}": s for i, s in enumerate(cuda)}}


def _set_dice(own: torch.Generator, states: Mapping[str, Tensor]) -> None:
    own.set_state(states["own"])
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            if (state := states.get(f"cuda{i}")) is not None:
                torch.cuda.set_rng_state(state, i)
