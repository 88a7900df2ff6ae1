"""Where a training computes and in which precision, chosen with a reason; `accelerate` does the rest of it."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tire_pipeline.errors import InputError
from tire_pipeline.training.config import TrainingConfig

log = logging.getLogger(__name__)

PROBE_S = 60.0
# A convolution, a batch norm and a product, there and back, as every candidate has them.
PROBE = """
import torch
from torch import nn
net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(3136, 4))
x = torch.rand(4, 3, 16, 16).to(memory_format=torch.channels_last)
with torch.autocast("cpu", torch.bfloat16):
    loss = net(x).float().square().sum()
loss.backward()
assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in net.parameters())
"""


@dataclass(frozen=True)
class Choice:
    """A device and a precision: `no` is fp32, as accelerate calls it."""

    device: str
    mixed_precision: str
    reason: str


def choose(config: TrainingConfig) -> Choice:
    """What the configuration asks for, or the best there is. InputError for what is not here or does not work here."""
    device, why_device = _choose_device(config.device)
    precision, why_precision = _choose_precision(config.precision, device)
    return Choice(device, precision, f"{device} ({why_device}), {_name(precision)} ({why_precision})")


def make_accelerator(choice: Choice) -> Accelerator:
    """accelerate for this choice; in a process that torchrun or `accelerate launch` started, one of many.

    accelerate keeps device and precision for the life of the process, and a process may train several candidates.
    """
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(cpu=choice.device == "cpu", mixed_precision=choice.mixed_precision)


def _choose_device(asked: str) -> tuple[str, str]:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":
        best = next(name for name, is_there in there.items() if is_there)
        return best, "the best one here" if best != "cpu" else "no GPU is here"
    if not there[asked]:
        found = ", ".join(name for name, is_there in there.items() if is_there)
        raise InputError(f"device is {asked!r}, but this machine has none that torch can use (found: {found}).")
    return asked, "asked for"


def _choose_precision(asked: str, device: str) -> tuple[str, str]:
    if asked == "auto":
        if device == "cuda" and torch.cuda.get_device_capability() >= (8, 0):
            return "bf16", "this GPU computes with it"
        return "no", "what is fast and safe on this device"
    if asked == "fp16" and device != "cuda":
        raise InputError(f"precision is 'fp16', but the device is {device}: fp16 is for CUDA. Use bf16 or fp32.")
    if asked == "bf16" and device == "cpu" and (problem := bf16_problem()):
        raise InputError(f"precision is 'bf16', but it does not work on this CPU: {problem}. Use fp32.")
    return ("no" if asked == "fp32" else asked), "asked for"


@functools.cache
def bf16_problem() -> str:
    """Why bf16 cannot be used on this CPU, or nothing. Tried in a child: there are virtual machines that announce AMX
    and end a process that uses it with an illegal instruction."""
    try:
        child = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=PROBE_S, check=False)
    except subprocess.TimeoutExpired:
        return f"a trial did not end in {PROBE_S:.0f} s"
    return f"a trial ended with code {child.returncode}" if child.returncode else ""


def _name(mixed_precision: str) -> str:
    return "fp32" if mixed_precision == "no" else mixed_precision
