"""Which port each part gets, and who holds a taken one.

A port somebody asked for (`TIRE_PORT_MLFLOW=15001`, or `ports=`) or that this home has used before is never replaced
silently: scripts and bookmarks hold it. A new home takes the first block whose ports are all free: the defaults, then
every default + 100, + 200, … so that a second stack beside the first just works.
"""

from __future__ import annotations

import socket
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import psutil

from tire_pipeline.errors import InputError
from tire_pipeline.stack.records import HOST, Ports

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

BLOCK_STEP = 100
NUM_BLOCKS = 40


def requested_ports(environ: Mapping[str, str]) -> dict[str, int]:
    """The ports asked for by `TIRE_PORT_<PART>`. Raises InputError for one that is no port."""
    return {
        name: _port(f"TIRE_PORT_{name.upper()}", text) for name in asdict(Ports()) if (text := _text(environ, name))
    }


def _text(environ: Mapping[str, str], name: str) -> str:
    return environ.get(f"TIRE_PORT_{name.upper()}", "").strip()


def _port(variable: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 65535:
        raise InputError(f"{variable}={text!r} is not a port: give a number from 1 to 65535, such as {variable}=15001.")
    return int(text)


def choose_ports(requested: Mapping[str, int], recorded: Ports | None) -> Ports:
    """Requested before recorded before the first free block. Raises InputError where two parts share a port."""
    ports = recorded or first_free_block(skip=requested)
    ports = replace(ports, **requested)
    taken: dict[int, str] = {}
    for name, port in asdict(ports).items():
        if port in taken:
            raise InputError(
                f"{name} and {taken[port]} would both listen on port {port}. "
                f"Give one another port: TIRE_PORT_{name.upper()}={port + 1} tire up"
            )
        taken[port] = name
    return ports


def first_free_block(*, skip: Mapping[str, int]) -> Ports:
    """The defaults, or the nearest block above them in which every part not in `skip` finds its port free."""
    for shift in range(0, NUM_BLOCKS * BLOCK_STEP, BLOCK_STEP):
        block = {name: port + shift for name, port in asdict(Ports()).items()}
        if all(is_free(port) for name, port in block.items() if name not in skip):
            return Ports(**block)
    raise InputError(
        f"None of {NUM_BLOCKS} blocks of ports from {Ports().mlflow} up is free. "
        "Stop another stack (`TIRE_HOME=… tire down`) or name the ports: TIRE_PORT_POSTGRES, TIRE_PORT_S3, "
        "TIRE_PORT_MLFLOW, TIRE_PORT_AIRFLOW, TIRE_PORT_SERVING."
    )


def is_free(port: int) -> bool:
    """Whether a part could listen on this port of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def require_free(ports: Ports, names: Collection[str]) -> None:
    """Raises InputError naming each taken port among `names`, who holds it and the way out."""
    taken = {name: port for name, port in asdict(ports).items() if name in names and not is_free(port)}
    if not taken:
        return
    held = "; ".join(f"port {port} ({name}) is held by {holder(port)}" for name, port in taken.items())
    others = " ".join(f"TIRE_PORT_{name.upper()}={_next_free(port)}" for name, port in taken.items())
    raise InputError(f"Nothing was started: {held}. Stop that program, or give the stack other ports: {others} tire up")


def _next_free(port: int) -> int:
    return next((candidate for candidate in range(port + 1, min(port + 200, 65535)) if is_free(candidate)), port)


def holder(port: int) -> str:
    """The program listening on this port, as far as this user may see it."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return "a program this user may not see (`sudo ss -ltnp` shows it)"
