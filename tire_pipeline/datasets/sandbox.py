"""Decoding in child processes with limits, as many as there are cores, fed in batches and replaced when they end.

Plain subprocesses and pipes: they may be started from a task that was itself forked, from any thread, and from a
daemonic process, where multiprocessing may not. Nothing pickled crosses, and no secret stands in their environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from types import TracebackType
from typing import BinaryIO, cast

from tire_pipeline.datasets import sandbox_child
from tire_pipeline.datasets.facts import Facts
from tire_pipeline.datasets.sandbox_child import CPU_S, WALL_S
from tire_pipeline.errors import TireError

AHEAD = 2  # a file waits in the pipe while the one before it is decoded
PIPE_BYTES = 2**20
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "LANG", "TMPDIR")
TIMEOUTS: dict[int, str] = {
    signal.SIGPROF: f"Decoding it takes more than {CPU_S:.0f} s of processor time. Save the picture smaller.",
    signal.SIGALRM: f"Decoding it takes more than {WALL_S:.0f} s. Save the picture smaller.",
}


class Sandbox:
    """A pool of decoding children. `facts` may be called from several threads; each call has a child to itself."""

    def __init__(self, *, children: int | None = None) -> None:
        self.num_children = children or len(os.sched_getaffinity(0))
        self._free: SimpleQueue[_Child | None] = SimpleQueue()
        self._all: set[_Child] = set()
        for _ in range(self.num_children):
            self._free.put(None)  # started when it is needed

    def facts(self, files: Sequence[bytes]) -> list[Facts]:
        """The facts of each file, in order. A file that ends its child has that for its reason; the others go on.

        A child that ends for anything but its time limit may have been ended from outside: its file has a second try.
        """
        found: list[Facts] = []
        child, suspect = self._free.get(), -1
        try:
            child = child or self._start()
            while True:
                found.extend(child.facts(files[len(found) :]))
                if len(found) == len(files):
                    return found
                cause = self._bury(child)
                child = self._start()
                if cause in TIMEOUTS or suspect == len(found):
                    found.append(Facts(error=TIMEOUTS.get(cause) or _crashed(cause)))
                else:
                    suspect = len(found)
        finally:
            self._free.put(child)

    @property
    def pids(self) -> list[int]:
        """The children's process ids."""
        return [child.pid for child in list(self._all)]

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for child in list(self._all):
            self._bury(child)

    def _start(self) -> _Child:
        child = _Child()
        self._all.add(child)
        return child

    def _bury(self, child: _Child) -> int:
        self._all.discard(child)
        return child.end()


class _Child:
    """One child process. The thread that took it from the pool is the only one that talks to it."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `end`)
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", sandbox_child.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
            start_new_session=True,  # Ctrl-C is for the parent, which ends its children
            pipesize=PIPE_BYTES,
        )
        self.pid, self._ready = self._process.pid, False

    def facts(self, files: Sequence[bytes]) -> Iterator[Facts]:
        """The facts of each file, in order, until the child ends. TireError when it never started."""
        pipe = cast(BinaryIO, self._process.stdout)
        for data in files[:AHEAD]:
            self._send(data)
        for done in range(len(files)):
            if not self._ready and sandbox_child.receive(pipe) is None:
                raise TireError(f"The process that decodes images did not start: {self._complaint()}")
            self._ready = True
            if (facts := sandbox_child.receive(pipe)) is None:
                return
            yield facts
            if done + AHEAD < len(files):
                self._send(files[done + AHEAD])

    def _send(self, data: bytes) -> None:
        pipe = cast(BinaryIO, self._process.stdin)
        with contextlib.suppress(BrokenPipeError):  # that the child has ended is told by its missing answer
            pipe.write(sandbox_child.ASKED.pack(len(data)))
            pipe.write(data)
            pipe.flush()

    def end(self) -> int:
        """Stop it; the number of the signal that had ended it, or 0."""
        with contextlib.suppress(BrokenPipeError):
            cast(BinaryIO, self._process.stdin).close()
        cast(BinaryIO, self._process.stdout).close()
        self._process.kill()
        self._errors.close()
        return max(0, -self._process.wait())

    def _complaint(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip().split("\n")[-1] or "it said nothing"


def _crashed(cause: int) -> str:
    how = signal.Signals(cause).name if cause else "without a signal"
    return f"The decoder crashed on it, twice ({how}). Save the picture again."
