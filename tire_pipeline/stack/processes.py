"""Every process of one stack and of no other.

A process is ours if its environment carries our `TIRE_STACK_ID`, if it works in our PostgreSQL data directory (a
backend writes its title over its environment), or if it descends from one that does. Names prove nothing: an
unrelated `postgres` is nobody's business here.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from tire_pipeline.stack.config import STACK_ID_VARIABLE, stack_id

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TERMINATE_S = 10.0
POSTGRES_STOP_S = 30.0


def find_processes(home: Path) -> list[psutil.Process]:
    """The living processes of the stack in this home, without the caller and the processes it was started by."""
    mark, data = stack_id(home), str(home / "postgres" / "data")
    found = {process for process in psutil.process_iter() if _is_marked(process, mark, data)}
    for process in list(found):
        found.update(_children(process))
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return sorted((process for process in found if process.pid not in own and _is_alive(process)), key=_pid)


def _is_marked(process: psutil.Process, mark: str, data: str) -> bool:
    try:
        return bool(process.environ().get(STACK_ID_VARIABLE) == mark) or _is_database(process, data)
    except (psutil.Error, OSError):
        return _is_database(process, data)


def _is_database(process: psutil.Process, data: str) -> bool:
    """A `postgres` at work in that directory; a person's shell there is not ours to end."""
    try:
        return bool(process.name() == "postgres" and process.cwd() == data)
    except (psutil.Error, OSError):
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _pid(process: psutil.Process) -> int:
    return int(process.pid)


def end_processes(home: Path) -> int:
    """End every process of this stack: first what uses PostgreSQL, then PostgreSQL by its fast shutdown.

    Returns how many there were. What ignores SIGTERM for 10 s is killed. Safe to repeat.
    """
    found = find_processes(home)
    if not found:
        return 0
    data = str(home / "postgres" / "data")
    database = {process for process in found if _is_database(process, data)}
    _end(set(found) - database, signal.SIGTERM, TERMINATE_S)
    _end([process for process in database if _parent(process) not in database], signal.SIGINT, POSTGRES_STOP_S)
    _end(find_processes(home), signal.SIGTERM, TERMINATE_S)
    return len(found)


def _parent(process: psutil.Process) -> psutil.Process | None:
    try:
        return process.parent()
    except psutil.Error:
        return None


def _end(processes: Iterable[psutil.Process], signal_: signal.Signals, grace_s: float) -> None:
    processes = list(processes)
    for process in processes:
        _send(process, signal_)
    for process in _alive_after(processes, grace_s):
        _send(process, signal.SIGKILL)
    _alive_after(processes, TERMINATE_S)


def _send(process: psutil.Process, signal_: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal_)


def _alive_after(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    deadline = time.monotonic() + timeout_s
    while (alive := [p for p in processes if _is_alive(p)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive
