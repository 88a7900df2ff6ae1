"""`up`, `down`, `status`: the doors of the stack. Each may be repeated at any time, after any kill -9."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from tire_pipeline.errors import InputError
from tire_pipeline.stack import postgres
from tire_pipeline.stack.airflow_env import passwords_file
from tire_pipeline.stack.config import (
    AIRFLOW_USER,
    BUCKET,
    Config,
    check_home,
    new_secrets,
    read_config,
    write_config,
    write_private,
)
from tire_pipeline.stack.health import unhealthy
from tire_pipeline.stack.home import exclusive, make_home, readable_os_errors, settling_ports
from tire_pipeline.stack.parts import build_parts
from tire_pipeline.stack.ports import choose_ports, requested_ports, require_free
from tire_pipeline.stack.processes import end_processes
from tire_pipeline.stack.records import ALL_PARTS, HOST, PartStatus, Ports, StackInfo, State, port_name
from tire_pipeline.stack.startup import Startup
from tire_pipeline.stack.supervision import (
    is_supervised,
    programs,
    remove_socket,
    start_supervisor,
    starts,
    stop_supervisor,
    write_specs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tire_pipeline.stack.records import Part

_log = logging.getLogger(__name__)

LOCK_S = 300.0
SETTLING_S = 60.0


def up(
    home: Path,
    *,
    project: str = "tire-defect",
    ports: Ports | None = None,
    parts: Sequence[str] = ALL_PARTS,
    environ: Mapping[str, str] | None = None,
    migrate_ledger: Callable[[str], object] | None = None,
    say: Callable[[str], None] | None = None,
    timeout_s: float = 300.0,
) -> StackInfo:
    """Start the stack in `home` and return when every part answers; at once where it already does.

    The processes outlive the caller; `down` ends them, and an interrupted or refused first step leaves none. What
    `environ` (default: this process's) says in TIRE_* reaches Airflow and serving as it is at this moment.
    Raises InputError (a taken port, an unusable home, another project), OutOfResources, and ServiceUnavailable naming
    the part that did not come up, with the end of its log.
    """
    began = time.monotonic()
    home, environ, say = check_home(home), os.environ if environ is None else environ, say or _log.info
    requested = asdict(ports) if ports else requested_ports(environ)
    with readable_os_errors(home):
        make_home(home)
        with exclusive(home, timeout_s=LOCK_S), _ended_if_interrupted(home):
            with settling_ports(timeout_s=LOCK_S):
                config = _configure(home, project, requested)
                startup = Startup(config, say, migrate_ledger, began + timeout_s)
                if not (already := is_supervised(home) and not unhealthy(config, parts)):
                    built = _begin(config, parts, environ, say)
                    startup.storage(built)
            if not already:
                startup.services(built)
    return _info(config, already_running=already, seconds=time.monotonic() - began)


def _configure(home: Path, project: str, requested: dict[str, int]) -> Config:
    """The recorded stack with what was asked for now, or a new one. Nothing is written or started."""
    recorded = read_config(home)
    ports = choose_ports(requested, recorded.ports if recorded else None)
    if recorded is None:
        return Config(home, project, ports, new_secrets())
    if recorded.project != project:
        raise InputError(
            f"{home} holds the project {recorded.project!r}, and a stack serves one project. For {project!r} "
            f"give another directory: TIRE_HOME=.tire-{project} tire up"
        )
    if ports != recorded.ports and is_supervised(home):
        raise InputError(
            f"The stack in {home} runs on {recorded.ports}. To move it: `tire down`, then `tire up` again."
        )
    return replace(recorded, ports=ports)


@contextmanager
def _ended_if_interrupted(home: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _stop(home)
        raise


def _begin(
    config: Config, names: Sequence[str], environ: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, Part]:
    """See to a supervisord that knows these parts, and return them. One that does already is left as it is."""
    if set(names) <= set(programs(config.home)):
        return _selected(build_parts(config, environ, account=None), names)
    if orphans := _stop(config.home):
        say(f"ended {orphans} processes that an earlier stack left behind")
    require_free(config.ports, {port_name(name) for name in names})
    if config.ports != Ports():
        say("ports: " + ", ".join(f"{name} {port}" for name, port in asdict(config.ports).items()))
    write_config(config)
    write_private(passwords_file(config), json.dumps({AIRFLOW_USER: config.secrets.airflow_password}) + "\n")
    account = postgres.unprivileged_account(config.home)
    if "postgres" in names:
        postgres.prepare(config, account)
    parts = _selected(build_parts(config, environ, account=account), names)
    write_specs(config, parts)
    start_supervisor(config)
    return parts


def _selected(parts: dict[str, Part], names: Sequence[str]) -> dict[str, Part]:
    return {name: part for name, part in parts.items() if name in names}


def _stop(home: Path) -> int:
    """Stop what is supervised in good order, then end whatever is left. Returns how many processes were left."""
    stop_supervisor(home)
    left = end_processes(home)
    remove_socket(home)
    return left


def _info(config: Config, *, already_running: bool, seconds: float) -> StackInfo:
    return StackInfo(
        home=config.home,
        project=config.project,
        airflow_url=config.url("airflow"),
        airflow_user=AIRFLOW_USER,
        mlflow_url=config.url("mlflow"),
        serving_url=config.url("serving"),
        s3_endpoint_url=config.url("s3"),
        bucket=BUCKET,
        postgres_address=f"{HOST}:{config.ports.postgres}",
        secrets_file=config.file,
        logs=config.home / "logs",
        ports=config.ports,
        already_running=already_running,
        seconds=seconds,
    )


def down(home: Path, *, say: Callable[[str], None] | None = None) -> int:
    """Stop every part and leave no process of this stack, orphans of a kill -9 included. Nothing stored is touched.

    Returns how many processes ignored the orderly stop or had lost their supervisor. Safe to repeat.
    """
    home, say = check_home(home), say or _log.info
    if not home.exists():  # removed while the stack ran
        return end_processes(home)
    with readable_os_errors(home):
        make_home(home)
        with exclusive(home, timeout_s=LOCK_S):
            left = _stop(home)
    if left:
        say(f"ended {left} processes that had lost their supervisor or did not stop")
    return left


def wait(home: Path, *, poll_s: float = 1.0) -> None:
    """Block until the stack in `home` ends: what `tire up` without --detach does."""
    home = check_home(home)
    while is_supervised(home):
        time.sleep(poll_s)


def status(home: Path) -> list[PartStatus]:
    """Each part as it is now, asked of the supervisor and of the part itself; changes nothing."""
    home = check_home(home)
    config, known = read_config(home), programs(home)
    if config is None or not known:
        return [PartStatus(name, "stopped") for name in ALL_PARTS]
    reasons = unhealthy(config, known)
    return [_status(config, name, known[name], reasons.get(name, "")) for name in ALL_PARTS if name in known]


def _status(config: Config, name: str, info: dict[str, Any], reason: str) -> PartStatus:
    runs = info["statename"] in ("RUNNING", "STARTING")
    uptime = float(info["now"] - info["start"]) if runs else None
    return PartStatus(
        name=name,
        state=_state(info["statename"], uptime or 0.0, reason),
        pid=info["pid"] if runs else None,
        uptime_s=uptime,
        address=f"{HOST}:{asdict(config.ports)[port_name(name)]}",
        restarts=max(0, len(starts(config.home, name)) - 1),
        reason=reason,
    )


def _state(supervised: str, uptime_s: float, reason: str) -> State:
    """One word out of the supervisor's state and the part's own answer; a minute is enough to settle."""
    if supervised in ("RUNNING", "STARTING"):
        if not reason:
            return "healthy"
        return "starting" if uptime_s < SETTLING_S else "unhealthy"
    states: dict[str, State] = {"BACKOFF": "restarting", "FATAL": "failed", "UNKNOWN": "failed"}
    return states.get(supervised, "stopped")
