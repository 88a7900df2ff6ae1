"""One training in several processes, as torchrun and `accelerate launch` start them.

Each reads the whole batch and computes its share, so that order, augmentation and mixing are those of one process; the
gradients are those of the whole batch. Batch norm takes its statistics over all shares. What is drawn within the
network (dropout) is each process' own.
"""

from __future__ import annotations

import os

import torch
import torch.distributed
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from tire_pipeline.metrics import Ints


def is_follower() -> bool:
    """Whether this process only helps another one, which tracks, saves and exports."""
    return int(os.environ.get("RANK", "0")) > 0


def share_of(values: Tensor, accelerator: Accelerator) -> Tensor:
    """This process' part of a batch."""
    return values[accelerator.process_index :: accelerator.num_processes]


def rows_of(rows: Ints, accelerator: Accelerator) -> Ints:
    """This process' part of rows to be measured: as many for each, some twice."""
    number, size = accelerator.num_processes, -(-len(rows) // accelerator.num_processes)
    return rows[[(accelerator.process_index + i * number) % len(rows) for i in range(size)]]


def put_together(logits_BK: Tensor, num_rows: int, accelerator: Accelerator) -> Tensor:
    """What all processes say of their `rows_of`, in the rows' order, on the CPU."""
    if accelerator.num_processes == 1:
        return logits_BK
    gathered: Tensor = accelerator.gather(logits_BK.to(accelerator.device)).cpu()
    by_process = gathered.view(accelerator.num_processes, len(logits_BK), -1)
    return by_process.transpose(0, 1).reshape(len(gathered), -1)[:num_rows]


def summed(value: float, accelerator: Accelerator) -> float:
    """The sum of a number over all processes."""
    if accelerator.num_processes == 1:
        return value
    number = torch.tensor(value, dtype=torch.float64, device=accelerator.device)
    total: Tensor = accelerator.reduce(number, "sum")
    return float(total.item())


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes, on any device: torch's own is for GPUs alone."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.training:
            measured: Tensor = super().forward(x_BCHW)
            return measured
        channels = x_BCHW.shape[1]
        count = x_BCHW.new_full((1,), x_BCHW.numel() / channels)
        sums = all_reduce(torch.cat([x_BCHW.sum((0, 2, 3)), x_BCHW.square().sum((0, 2, 3)), count]))
        mean_C, squares_C = sums[:channels] / sums[-1], sums[channels:-1] / sums[-1]
        var_C = squares_C - mean_C.square()
        self._remember(mean_C.detach(), var_C.detach() * sums[-1] / (sums[-1] - 1))
        scale_C = torch.rsqrt(var_C + self.eps) * self.weight
        shift_C = self.bias - mean_C * scale_C
        made_BCHW: Tensor = x_BCHW * scale_C[:, None, None] + shift_C[:, None, None]
        return made_BCHW

    def _remember(self, mean_C: Tensor, var_C: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, momentum)
        self.running_var.lerp_(var_C, momentum)


def share_norms(model: nn.Module) -> None:
    """Let every batch norm of the model be a shared one, with the tensors it has."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
