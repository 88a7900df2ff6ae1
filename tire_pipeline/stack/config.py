"""`<home>/stack.env` (mode 0600): the ports and secrets of one stack, made at the first `up` and kept.

What `Settings` reads is in it under its own name; what only the stack needs begins with `TIRE_STACK_`. Lines that
people add (`TIRE_SLACK_WEBHOOK_URL=…`) are kept and reach Airflow and serving.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dotenv import dotenv_values

from tire_pipeline.errors import InputError
from tire_pipeline.settings import STACK_ENV
from tire_pipeline.stack.records import HOST, Ports

BUCKET = "tire"
REGION = "us-east-1"
AIRFLOW_USER = "admin"
STACK_ID_VARIABLE, PART_VARIABLE = "TIRE_STACK_ID", "TIRE_STACK_PART"
DATABASES = ("airflow", "mlflow", "ledger")
PREFIX = "TIRE_STACK_"


@dataclass(frozen=True)
class Secrets:
    """Made once. Changing one by hand needs `tire down` first; the database passwords are set again at each `up`."""

    postgres_password: str
    airflow_db_password: str
    mlflow_db_password: str
    ledger_db_password: str
    s3_access_key_id: str
    s3_secret_access_key: str
    airflow_password: str
    airflow_fernet_key: str
    airflow_api_secret: str
    airflow_jwt_secret: str


@dataclass(frozen=True)
class Config:
    """One stack: where it lives, what it listens on, what it knows."""

    home: Path
    project: str
    ports: Ports
    secrets: Secrets = field(repr=False)
    extra: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def stack_id(self) -> str:
        """Marks every process of this stack in its environment; two homes never share it."""
        return stack_id(self.home)

    @property
    def file(self) -> Path:
        return self.home / STACK_ENV

    def url(self, part: str) -> str:
        return f"http://{HOST}:{asdict(self.ports)[part]}"

    def database_url(self, name: str) -> str:
        """SQLAlchemy URL, with its password. The driver is named: SQLAlchemy 2.1 reads `postgresql://` as psycopg 3."""
        password = asdict(self.secrets)[f"{name}_db_password"]
        return f"postgresql+psycopg2://{name}:{password}@{HOST}:{self.ports.postgres}/{name}"

    def settings(self) -> dict[str, str]:
        """The variables `Settings` reads: what every part that runs our own code gets."""
        return {
            **self.extra,
            "TIRE_HOME": str(self.home),
            "TIRE_PROJECT": self.project,
            "TIRE_BUCKET": BUCKET,
            "TIRE_S3_ENDPOINT_URL": self.url("s3"),
            "TIRE_S3_REGION": REGION,
            "TIRE_S3_ACCESS_KEY_ID": self.secrets.s3_access_key_id,
            "TIRE_S3_SECRET_ACCESS_KEY": self.secrets.s3_secret_access_key,
            "TIRE_MLFLOW_URL": self.url("mlflow"),
            "TIRE_LEDGER_URL": self.database_url("ledger"),
            "TIRE_SERVING_URL": self.url("serving"),
            "TIRE_AIRFLOW_URL": self.url("airflow"),
            "TIRE_AIRFLOW_USER": AIRFLOW_USER,
            "TIRE_AIRFLOW_PASSWORD": self.secrets.airflow_password,
        }

    def records(self) -> dict[str, str]:
        """Everything in the file, in order."""
        ports = {f"{PREFIX}PORT_{name.upper()}": str(port) for name, port in asdict(self.ports).items()}
        hidden = {f"{PREFIX}{name.upper()}": value for name, value in asdict(self.secrets).items()}
        return {**self.settings(), **ports, **hidden}


def stack_id(home: Path) -> str:
    return hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]


def new_secrets() -> Secrets:
    return Secrets(
        **{name: secrets.token_urlsafe(24) for name in ("postgres_password", *(f"{d}_db_password" for d in DATABASES))},
        s3_access_key_id="TIRE" + secrets.token_hex(8).upper(),
        s3_secret_access_key=secrets.token_urlsafe(30),
        airflow_password=secrets.token_urlsafe(12),
        airflow_fernet_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        airflow_api_secret=secrets.token_urlsafe(48),
        airflow_jwt_secret=secrets.token_urlsafe(64),
    )


def read_config(home: Path) -> Config | None:
    """The stack recorded under this home, or None before its first `up`. Raises InputError for a damaged file."""
    file = home / STACK_ENV
    if not file.exists():
        return None
    found = {key: value or "" for key, value in dotenv_values(file, interpolate=False).items()}
    try:
        ports = Ports(**{name: int(found[f"{PREFIX}PORT_{name.upper()}"]) for name in asdict(Ports())})
        hidden = Secrets(**{name: found[f"{PREFIX}{name.upper()}"] for name in Secrets.__dataclass_fields__})
        config = Config(home, found["TIRE_PROJECT"], ports, hidden)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{file} is damaged ({error} is missing or unreadable). Put back a copy of it: the databases under "
            f"{home} open only with its passwords. To begin anew instead, remove {home}."
        ) from None
    known = config.records()
    return Config(home, config.project, ports, hidden, {k: v for k, v in found.items() if k not in known})


def write_config(config: Config) -> None:
    """Write the file whole or not at all, readable by this user only."""
    lines = [f"{key}='{value}'" for key, value in config.records().items()]
    header = f"# The embedded stack in {config.home}: ports and secrets, made by `tire up`. Keep it with the data.\n"
    write_private(config.file, header + "\n".join(lines) + "\n")


def write_private(file: Path, text: str) -> None:
    """Replace a file atomically; it is never readable by others, not even for a moment."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def check_home(home: Path) -> Path:
    """The home as an absolute path. Raises InputError for a name that dotenv or supervisord would misread."""
    home = home.expanduser().resolve()
    if unusable := re.search(r"['\"$%`\\\x00-\x1f]", str(home)):
        raise InputError(
            f"TIRE_HOME={str(home)!r} cannot be used: it holds {unusable.group()!r}, which the configuration files of "
            "the stack would misread. Choose a path without quotes, '$', '%', backslashes and control characters."
        )
    if home in (Path("/"), Path.home()):
        raise InputError(
            f"TIRE_HOME={home} would close that directory to others: name one of its own, as {home / '.tire'}."
        )
    return home
