"""Memory that runs out within a step, and what of it torch would keep."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tire_pipeline.errors import OutOfResources

# torch raises RuntimeError for most of them, oneDNN's among them, and tells them apart by the text alone.
SIGNS = ("can't allocate memory", "not enough memory", "bad_alloc", "could not create a primitive", "out of memory")


def ran_out(error: BaseException) -> bool:
    """Whether an error means that memory, of the machine or its GPU, did not suffice."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@contextmanager
def memory_errors(model_type: str) -> Iterator[None]:
    """Memory that runs out where no batch can be cut, in building, measuring or saving, as the project's own error."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OutOfResources(
            f"Memory does not suffice for {model_type} ({said}). Use a smaller image or candidate, or a machine with "
            "more memory."
        ) from error


class Sweeper:
    """Frees what a backward pass that failed leaves behind, made before the first one.

    torch works a backward pass off a queue that belongs to the thread, youngest node first, and leaves the queue as it
    is when a node fails: the rest, with every tensor it holds, would stay until an older node is worked off. This one
    is older than all.
    """

    def __init__(self) -> None:
        self._oldest: Tensor = torch.zeros((), requires_grad=True) * 1

    def sweep(self) -> None:
        """Call it once the error is no longer referred to."""
        self._oldest.backward(retain_graph=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
