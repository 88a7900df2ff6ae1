"""A network cut in two after one of its stages: what the first part says of an image can be kept, and the second one
trained on that. A stage is named as in `named_modules`: `blocks.4`, `layer3`. Both parts share the network's weights.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tire_pipeline.errors import InputError


class _Reached(Exception):
    """No error: how a forward pass is left half-way."""

    def __init__(self, output: Tensor) -> None:
        self.output = output


def first_part(network: nn.Module, stage: str) -> list[nn.Module]:
    """The modules that run up to the stage, itself among them. KeyError where there is none of that name."""
    name, _, below = stage.partition(".")
    earlier: list[nn.Module] = []
    for child, module in network.named_children():
        if child == name:
            return [*earlier, *(first_part(module, below) if below else [module])]
        earlier.append(module)
    raise KeyError(name)


def run_until(network: nn.Module, stage: str, x_BCHW: Tensor) -> Tensor:
    """What the stage gives; nothing after it is computed."""

    def leave(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        raise _Reached(output)

    handle = network.get_submodule(stage).register_forward_hook(leave)
    try:
        network(x_BCHW)
    except _Reached as reached:
        return reached.output
    finally:
        handle.remove()
    raise KeyError(stage)


class After(nn.Module):
    """Takes what `run_until` gave, and gives what the head says of it."""

    def __init__(self, network: nn.Module, stage: str, head: nn.Module) -> None:
        super().__init__()
        self.network, self.stage, self.head = network, stage, head

    def forward(self, kept_BCHW: Tensor) -> Tensor:
        # Cut anew each time, in microseconds, so that it is in the network's mode, training or evaluation.
        logits_BK: Tensor = self.head(_rest(self.network, self.stage)(kept_BCHW))
        return logits_BK


def check_stage(network: nn.Module, stage: str, *, size: tuple[int, int]) -> None:
    """Raise InputError where the network has no such stage, or is no chain there: tried with an image of noise."""
    dice = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(1, 3, *size, generator=dice)
    mode = network.training
    network.eval()
    try:
        with torch.inference_mode():
            in_parts = After(network, stage, nn.Identity())(run_until(network, stage, x_BCHW))
            fits = torch.allclose(in_parts, network(x_BCHW), rtol=1e-3, atol=1e-4)
    except (KeyError, AttributeError, RuntimeError, TypeError):
        fits = False
    finally:
        network.train(mode)
    if not fits:
        raise InputError(
            f"The network cannot be cut after frozen_until {stage!r}. Name a stage that all of it passes through, such "
            f"as {', '.join(_stages(network))}."
        )


def _rest(network: nn.Module, stage: str) -> nn.Module:
    """The network with everything up to the stage left out; a shallow copy, so its weights are the network's."""
    name, _, below = stage.partition(".")
    rest = copy.copy(network)
    rest._modules = dict(network._modules)
    for child, module in network.named_children():
        if child == name:
            rest._modules[child] = _rest(module, below) if below else nn.Identity()
            break
        rest._modules[child] = nn.Identity()
    return rest


def _stages(network: nn.Module) -> list[str]:
    """Names to try: the children of the largest child, which is where networks keep their stages, or its own."""
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in network.named_children()}
    largest = max(sizes, key=lambda name: sizes[name])
    inside = list(network.get_submodule(largest).named_children())
    return [f"{largest}.{name}" for name, _ in inside] if largest in ("blocks", "features", "stages") else list(sizes)
