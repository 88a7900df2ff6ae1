"""What the stack tells its callers, and the one record each part is started from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

STORAGE_PARTS = ("postgres", "s3")
AIRFLOW_PARTS = ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
ALL_PARTS = (*STORAGE_PARTS, "mlflow", *AIRFLOW_PARTS, "serving")
"""In start order; each is a program of supervisord and a log `<home>/logs/<part>.log`."""

HOST = "127.0.0.1"


def port_name(part: str) -> str:
    """The field of `Ports` a part listens on or is reached through."""
    return "airflow" if part in AIRFLOW_PARTS else part


State = Literal["healthy", "starting", "unhealthy", "restarting", "failed", "stopped"]


@dataclass(frozen=True)
class Ports:
    """One TCP port on loopback for each part that listens."""

    postgres: int = 15432
    s3: int = 19000
    mlflow: int = 15000
    airflow: int = 18080
    serving: int = 18000


@dataclass(frozen=True)
class StackInfo:
    """A running stack, in what a person may see. The passwords are in `secrets_file` (mode 0600) only."""

    home: Path
    project: str
    airflow_url: str
    airflow_user: str
    mlflow_url: str
    serving_url: str
    s3_endpoint_url: str
    bucket: str
    postgres_address: str
    secrets_file: Path
    logs: Path
    ports: Ports
    already_running: bool
    seconds: float


@dataclass(frozen=True)
class PartStatus:
    """One part now. `restarts` counts the starts since `up` that nobody asked for."""

    name: str
    state: State
    pid: int | None = None
    uptime_s: float | None = None
    address: str = ""
    restarts: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Check:
    """One thing `doctor` looked at: what it found and, where `ok` is false, the way out."""

    name: str
    ok: bool
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Account:
    """The user PostgreSQL runs as where we are root, which it refuses to be.

    `dac_override`: this account cannot reach the data or the binaries (both may lie under /root), so the process
    keeps that one capability. Opening a user's directories to everybody instead would outlive the stack.
    """

    uid: int
    gid: int
    dac_override: bool = False


@dataclass(frozen=True)
class Part:
    """How one part is started. `env` may hold secrets, `argv` never does: everyone can read it in `ps`."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(repr=False)
    cwd: Path
    stop_signal: Literal["TERM", "INT"] = "TERM"
    stop_wait_s: int = 15
    account: Account | None = None
