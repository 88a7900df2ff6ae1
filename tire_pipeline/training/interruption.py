"""Being asked to stop: SIGTERM and Ctrl-C are taken note of, and obeyed between two pieces of work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from tire_pipeline.errors import Interrupted


class GivenUp(Interrupted):
    """A training that nobody will go on with: its checkpoints are deleted."""


@dataclass
class StopRequest:
    """`signal_name` is empty until somebody asks."""

    signal_name: str = ""

    def __bool__(self) -> bool:
        return bool(self.signal_name)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """While this is open, a first signal is noted and a second one does what it always does.

    Only the main thread can listen; in another nothing is ever noted.
    """
    asked = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: FrameType | None) -> None:
        asked.signal_name = signal.Signals(number).name
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
