"""The few lines between supervisord and a part: `python -I -S launch.py <home>/run/<part>.json`.

The environment with its secrets comes from that file (mode 0600), so that none is in supervisord's configuration or
in `ps`. Each start is counted. What a killed predecessor left behind is ended: MLflow's worker would hold its port,
the scheduler's tasks would go on beside their own second try. PostgreSQL leaves root here. Standard library only:
this runs at every restart.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# linux/prctl.h and linux/capability.h
PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 47, 2
CAP_DAC_OVERRIDE, CAPABILITY_VERSION_3 = 1, 0x20080522


LEFTOVERS_S = 10.0


def end_leftovers(marks: set[bytes]) -> None:
    """End every process whose environment carries all these `NAME=value`: SIGTERM, and SIGKILL after 10 s."""
    deadline, told = time.monotonic() + LEFTOVERS_S, set[int]()
    while alive := marked(marks):
        late = time.monotonic() > deadline
        for pid in alive if late else alive - told:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        told |= alive
        time.sleep(0.05)


def marked(marks: set[bytes]) -> set[int]:
    """The living processes but this one with these variables. A zombie's environment is empty."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if marks <= set(file.read_bytes().split(b"\0")):
                found.add(int(file.parent.name))
    return found - {os.getpid()}


def become(uid: int, gid: int, *, dac_override: bool) -> None:
    """Leave root for good. With `dac_override` that one capability survives, and the exec too (ambient set).

    Raises OSError where the kernel or the container does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if dac_override:
        _checked(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if dac_override:
        bit = 1 << CAP_DAC_OVERRIDE
        header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
        _checked(libc.capset(header, struct.pack("6I", bit, bit, bit, 0, 0, 0)))
        _checked(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main(spec_file: str) -> None:
    spec: dict[str, Any] = json.loads(Path(spec_file).read_text())
    with Path(spec_file).with_suffix(".starts").open("a") as starts:
        starts.write(datetime.now(UTC).isoformat() + "\n")
    end_leftovers({f"{name}={spec['env'][name]}".encode() for name in spec["marks"]})
    os.umask(0o077)
    os.chdir(spec["cwd"])
    if spec["account"] is not None:
        become(spec["account"]["uid"], spec["account"]["gid"], dac_override=spec["account"]["dac_override"])
    os.execve(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - a list of our own making, no shell


if __name__ == "__main__":
    main(sys.argv[1])
