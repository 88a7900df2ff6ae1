"""supervisord: its configuration, start, questions and stop. It holds no secret: `launch.py` reads those per part."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import time
import xmlrpc.client
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.stack import launch
from tire_pipeline.stack.config import PART_VARIABLE, STACK_ID_VARIABLE, Config, write_private
from tire_pipeline.stack.records import STORAGE_PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tire_pipeline.stack.records import Part

LOG_BYTES, LOG_BACKUPS = 10_000_000, 3
# A unix socket's path ends at 107 bytes, and supervisord first binds it under a name with its pid appended.
SOCKET_PATH_BYTES = 98
START_S = 20.0

_MAIN = """\
[supervisord]
logfile={logs}/supervisord.log
logfile_maxbytes=10MB
logfile_backups=3
pidfile={run}/supervisord.pid
nodaemon=false
umask=077
directory={run}
{user}
[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[group:services]
programs={services}
priority=30

[group:storage]
programs={storage}
priority=10
"""

# autostart=false: `up` starts each part when what it needs answers. After that autorestart keeps it up; a part that
# dies within startsecs is tried again after 1, 2, 3 … seconds, startretries times (a minute and a half in all).
_PROGRAM = """
[program:{part.name}]
command={python} -I -S {launcher} {run}/{part.name}.json
autostart=false
autorestart=true
startsecs=2
startretries=12
stopsignal={part.stop_signal}
stopwaitsecs={part.stop_wait_s}
stopasgroup={as_group}
killasgroup=true
redirect_stderr=true
stdout_logfile={logs}/{part.name}.log
stdout_logfile_maxbytes={log_bytes}
stdout_logfile_backups={log_backups}
"""


def socket_path(home: Path) -> Path:
    """Where supervisord listens: under the home, or a short private path in /tmp where the home's is too long."""
    path = home / "run" / "supervisor.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path("/tmp") / f"tire-{os.geteuid()}-{digest}" / "supervisor.sock"  # noqa: S108 - checked when made


def write_specs(config: Config, parts: Mapping[str, Part]) -> None:
    """Write what supervisord and the launcher read, each file 0600. Safe to repeat while nothing runs."""
    run, logs = config.home / "run", config.home / "logs"
    _private_directory(socket_path(config.home).parent)
    for part in parts.values():
        write_private(run / f"{part.name}.json", launch_spec(part))
        (run / f"{part.name}.starts").unlink(missing_ok=True)
    main = _MAIN.format(
        logs=logs,
        run=run,
        socket=socket_path(config.home),
        user="user=root\n" if os.geteuid() == 0 else "",
        services=",".join(name for name in parts if name not in STORAGE_PARTS),
        storage=",".join(name for name in parts if name in STORAGE_PARTS),
    )
    write_private(run / "supervisord.conf", main + "".join(_program(part, run, logs) for part in parts.values()))


def launch_spec(part: Part) -> str:
    """What `launch.py` reads."""
    record = {key: value for key, value in asdict(part).items() if key in ("argv", "env", "account")}
    marks = [STACK_ID_VARIABLE, PART_VARIABLE]
    env = {**part.env, PART_VARIABLE: part.name}
    return json.dumps({**record, "env": env, "marks": marks, "cwd": str(part.cwd)})


def _program(part: Part, run: Path, logs: Path) -> str:
    return _PROGRAM.format(
        part=part,
        python=sys.executable,
        launcher=launch.__file__,
        run=run,
        logs=logs,
        # PostgreSQL tells its own children; a signal to each of them would look like a crash
        as_group=str(part.name != "postgres").lower(),
        log_bytes=LOG_BYTES,
        log_backups=LOG_BACKUPS,
    )


def _private_directory(path: Path) -> None:
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise InputError(
            f"{path} is needed for the supervisor's socket and is not a directory of this user with mode 0700. "
            "Remove it, or choose a TIRE_HOME with a shorter path."
        )


def start_supervisor(config: Config) -> None:
    """Start supervisord, which leaves this session by itself, and wait until it answers. Raises ServiceUnavailable."""
    run = config.home / "run"
    argv = [sys.executable, "-m", "supervisor.supervisord", "-c", str(run / "supervisord.conf")]
    env = {STACK_ID_VARIABLE: config.stack_id, "PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    done = subprocess.run(
        argv, env=env, cwd=run, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    deadline = time.monotonic() + START_S
    while not is_supervised(config.home):
        if done.returncode != 0 or time.monotonic() > deadline:
            said = done.stdout.decode(errors="replace").strip()[-1000:] or log_tail(config.home, "supervisord")
            raise ServiceUnavailable(f"The supervisor did not start. Its last words: {said}")
        time.sleep(0.05)


@contextmanager
def supervisor(home: Path) -> Iterator[Any]:
    """supervisord's own RPC interface (supervisord.org/api.html). Raises OSError where nobody answers."""
    transport = SupervisorTransport(None, None, f"unix://{socket_path(home)}")
    with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
        yield proxy.supervisor


def is_supervised(home: Path) -> bool:
    """Whether supervisord of this home answers."""
    return bool(programs(home))


def programs(home: Path) -> dict[str, dict[str, Any]]:
    """What supervisord knows of each part (`statename`, `pid`, `start`, `now`, …); empty where none answers."""
    try:
        with supervisor(home) as rpc:
            return {info["name"]: info for info in rpc.getAllProcessInfo()}
    except (OSError, xmlrpc.client.Error):
        return {}


def start_parts(home: Path, names: list[str]) -> None:
    """Tell supervisord to start those parts that are not started; returns at once."""
    known = programs(home)
    if not set(names) <= set(known):
        raise ServiceUnavailable("The supervisor ended while the stack was starting: was `tire down` run?")
    idle = [name for name in names if known[name]["statename"] in ("STOPPED", "EXITED", "FATAL")]
    try:
        with supervisor(home) as rpc:
            for name in idle:
                rpc.startProcess(f"{known[name]['group']}:{name}", False)
    except (OSError, xmlrpc.client.Fault) as error:
        raise ServiceUnavailable(f"The supervisor could not start {', '.join(idle)}: {error}.") from error


def starts(home: Path, name: str) -> list[datetime]:
    """When the launcher started a part since `up`, oldest first: exact where supervisord knows whole seconds."""
    try:
        lines = (home / "run" / f"{name}.starts").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [datetime.fromisoformat(line) for line in lines]


def log_tail(home: Path, name: str, *, num_lines: int = 15) -> str:
    """The last lines of a part's log, for an error that shows why."""
    try:
        lines = (home / "logs" / f"{name}.log").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "(no log was written)"
    return "\n".join(f"  {line[:300]}" for line in lines[-num_lines:]) or "(the log is empty)"


def stop_supervisor(home: Path, *, timeout_s: float = 90.0) -> None:
    """Let supervisord stop every part, services before storage, and wait until it is gone itself; or do nothing."""
    try:
        with supervisor(home) as rpc:
            process = psutil.Process(rpc.getPID())
            rpc.shutdown()
    except (OSError, xmlrpc.client.Error, psutil.NoSuchProcess):
        return
    with suppress(psutil.TimeoutExpired):
        process.wait(timeout_s)


def remove_socket(home: Path) -> None:
    """Remove what a supervisord that is gone left of its socket, and the directory made only for that."""
    path = socket_path(home)
    path.unlink(missing_ok=True)
    if path.parent != home / "run":
        with suppress(FileNotFoundError):
            path.parent.rmdir()
