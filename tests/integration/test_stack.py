"""The embedded stack, started for real: it answers, it comes back from every kill -9, and it leaves nothing behind."""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import psutil
import psycopg2
import pytest
from botocore.config import Config as S3Options
from botocore.exceptions import BotoCoreError

from tire_pipeline import stack
from tire_pipeline.errors import InputError, OutOfResources, ServiceUnavailable
from tire_pipeline.stack import home as stack_home
from tire_pipeline.stack.airflow_env import TRAININGS_AT_ONCE
from tire_pipeline.stack.config import DATABASES, Config, read_config
from tire_pipeline.stack.ports import is_free
from tire_pipeline.stack.postgres import connect
from tire_pipeline.stack.processes import find_processes
from tire_pipeline.stack.supervision import programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARTS = tuple(part for part in stack.ALL_PARTS if part != "serving")  # which has its own tests
DEADLINE_S = 120.0


def until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """The condition's first true value; what it raises on the way counts as not yet."""
    deadline, last = time.monotonic() + timeout_s, None
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except (OSError, psycopg2.Error, httpx.HTTPError, psutil.Error) as error:
            last = error
        time.sleep(0.2)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what} ({last})")


def start(home: Path, **options: Any) -> stack.StackInfo:
    return stack.up(home, **{"parts": PARTS, **options})


def ports_of_our_own() -> stack.Ports:
    """Free ports outside the blocks: a stack started beside these tests must not take them while ours is dead."""
    candidates = random.sample(range(24000, 32000), 200)
    return stack.Ports(*[port for port in candidates if is_free(port)][:5])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("stack") / "home"
    home.parent.chmod(0o755)
    try:
        start(home, ports=ports_of_our_own())
        yield home
    finally:
        stack.down(home)


@pytest.fixture
def config(home: Path) -> Config:
    """The stack, up and healthy whatever the test before did to it."""
    start(home)
    config = read_config(home)
    assert config is not None
    return config


def s3(config: Config, *, options: Any = None, **keys: str) -> Any:
    return boto3.client(
        "s3",
        config=options,
        endpoint_url=config.url("s3"),
        region_name="us-east-1",
        aws_access_key_id=keys.get("access", config.secrets.s3_access_key_id),
        aws_secret_access_key=config.secrets.s3_secret_access_key,
    )


def database(config: Config, name: str, user: str | None = None) -> Any:
    user = user or name
    return closing(connect(config, user=user, password=asdict(config.secrets)[f"{user}_db_password"], database=name))


def remember(config: Config, word: str) -> None:
    """An object and a row, both acknowledged when this returns."""
    s3(config).put_object(Bucket="tire", Key=f"test/{word}", Body=word.encode())
    with database(config, "ledger") as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS remembered (word text)")
        cursor.execute("INSERT INTO remembered VALUES (%s)", (word,))


def assert_remembered(config: Config, word: str) -> None:
    assert s3(config).get_object(Bucket="tire", Key=f"test/{word}")["Body"].read() == word.encode()
    with database(config, "ledger") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM remembered WHERE word = %s", (word,))
        assert cursor.fetchone() == (1,)


def unwell(home: Path) -> dict[str, str]:
    return {part.name: part.reason for part in stack.status(home) if part.state != "healthy"}


@pytest.mark.e2e
def test_every_database_opens_for_its_own_role_only(config: Config) -> None:
    for name in DATABASES:
        with database(config, name) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_user, current_setting('fsync')")
            assert cursor.fetchone() == (name, "on")
    with pytest.raises(psycopg2.OperationalError, match="permission denied"), database(config, "ledger", "mlflow"):
        pass
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        connect(config, user="ledger", password="wrong", database="ledger")


@pytest.mark.e2e
def test_objects_are_kept_and_strangers_are_refused(config: Config) -> None:
    s3(config).put_object(Bucket="tire", Key="test/a", Body=b"bytes")
    assert s3(config).get_object(Bucket="tire", Key="test/a")["Body"].read() == b"bytes"
    assert httpx.get(f"{config.url('s3')}/tire/test/a", trust_env=False).status_code == 403
    with pytest.raises(s3(config).exceptions.ClientError, match="InvalidAccessKeyId"):
        s3(config, access="SOMEBODY").get_object(Bucket="tire", Key="test/a")


@pytest.mark.e2e
def test_mlflow_makes_an_experiment_and_keeps_an_artifact_in_the_bucket(config: Config) -> None:
    with httpx.Client(base_url=config.url("mlflow"), trust_env=False, timeout=30) as client:
        name = f"test-{time.monotonic_ns()}"
        made = client.post("/api/2.0/mlflow/experiments/create", json={"name": name}).raise_for_status().json()
        client.put(f"/api/2.0/mlflow-artifacts/artifacts/{name}.txt", content=b"artifact").raise_for_status()
    assert made["experiment_id"]
    assert s3(config).get_object(Bucket="tire", Key=f"mlflow/{name}.txt")["Body"].read() == b"artifact"


@pytest.mark.e2e
def test_airflow_is_healthy_and_lets_in_who_knows_the_password(config: Config) -> None:
    with httpx.Client(base_url=config.url("airflow"), trust_env=False, timeout=30) as client:
        health = client.get("/api/v2/monitor/health").raise_for_status().json()
        assert {name: entry["status"] for name, entry in health.items()} == dict.fromkeys(
            ("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy"
        )
        assert client.get("/api/v2/pools").status_code == 401
        assert client.post("/auth/token", json={"username": "admin", "password": "wrong"}).status_code == 401
        login = {"username": "admin", "password": config.secrets.airflow_password}
        token = client.post("/auth/token", json=login).raise_for_status().json()["access_token"]
        pool = client.get("/api/v2/pools/train", headers={"Authorization": f"Bearer {token}"})
        assert pool.raise_for_status().json()["slots"] == TRAININGS_AT_ONCE


@pytest.mark.e2e
def test_a_second_up_returns_at_once(config: Config) -> None:
    info = start(config.home)
    assert info.already_running
    assert info.seconds < 5
    assert config.secrets.airflow_password not in repr(info)


@pytest.mark.e2e
def test_nothing_listens_outside_loopback(config: Config) -> None:
    ours = {process.pid for process in find_processes(config.home)}
    listening = [c for c in psutil.net_connections(kind="inet") if c.pid in ours and c.status == psutil.CONN_LISTEN]
    assert {c.laddr.port for c in listening} == {p for n, p in asdict(config.ports).items() if n != "serving"}
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}


@pytest.mark.e2e
def test_secrets_are_in_private_files_and_neither_in_ps_nor_in_logs(config: Config) -> None:
    hidden = [value.encode() for value in asdict(config.secrets).values()]
    holding = [f for f in config.home.rglob("*") if f.is_file() and any(s in f.read_bytes() for s in hidden)]
    written_by_us = [f for f in holding if "postgres" not in f.relative_to(config.home).parts[:1]]
    assert config.file in holding
    assert {stat.S_IMODE(f.stat().st_mode) for f in written_by_us} == {0o600}
    assert not [f for f in holding if "logs" in f.parts or f.name == "supervisord.conf"]
    assert stat.S_IMODE(config.home.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    commands = "\n".join(" ".join(process.cmdline()) for process in find_processes(config.home)).encode()
    assert not [secret for secret in hidden if secret in commands]


@pytest.mark.e2e
@pytest.mark.parametrize("part", ["s3", "postgres", "mlflow", "airflow-scheduler"])
def test_a_killed_part_comes_back_and_has_lost_nothing(config: Config, part: str) -> None:
    remember(config, f"before-{part}")
    before = restarts(config.home, part)  # Airflow's scheduler ends itself when PostgreSQL does
    killed = psutil.Process(programs(config.home)[part]["pid"])
    children = killed.children(recursive=True)
    killed.kill()
    until(lambda: programs(config.home)[part]["pid"] not in (0, killed.pid), f"{part} is started again")
    until(lambda: not unwell(config.home), f"all is well after {part} was killed")
    assert_remembered(config, f"before-{part}")
    until(lambda: settled(config.home, part), f"{part} stays up")
    assert restarts(config.home, part) == before + 1
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.e2e
def test_an_object_that_the_disk_does_not_take_is_not_acknowledged(config: Config) -> None:
    remember(config, "before-full")
    pid = programs(config.home)["s3"]["pid"]
    psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (100_000, 100_000))  # as full as root can make a disk in a test
    once = S3Options(retries={"total_max_attempts": 1})
    with pytest.raises(BotoCoreError):
        s3(config, options=once).put_object(Bucket="tire", Key="test/large", Body=bytes(200_000))
    until(lambda: programs(config.home)["s3"]["pid"] not in (0, pid), "s3 is started again")
    until(lambda: not unwell(config.home), "all is well after the disk was full")
    assert_remembered(config, "before-full")
    assert [c["Key"] for c in s3(config).list_objects_v2(Bucket="tire", Prefix="test/large").get("Contents", [])] == []
    s3(config).put_object(Bucket="tire", Key="test/large", Body=bytes(200_000))
    assert "could not be written (File too large)" in (config.home / "logs" / "s3.log").read_text()


def restarts(home: Path, name: str) -> int:
    return next(part.restarts for part in stack.status(home) if part.name == name)


def settled(home: Path, name: str) -> stack.PartStatus | None:
    """The part, once it has been healthy for longer than one that finds its port taken lives."""
    return next(
        (p for p in stack.status(home) if p.name == name and p.state == "healthy" and (p.uptime_s or 0) > 15), None
    )


@pytest.mark.e2e
@pytest.mark.parametrize("survivors", ["none", "all but the supervisor"])
def test_up_starts_again_after_kill_9_of_everything(config: Config, survivors: str) -> None:
    remember(config, f"before-{survivors}")
    victims = find_processes(config.home)
    if survivors != "none":
        with (config.home / "run" / "supervisord.pid").open() as file:
            victims = [psutil.Process(int(file.read()))]
    for process in victims:
        process.kill()
    psutil.wait_procs(victims, timeout=10)
    said: list[str] = []
    info = start(config.home, say=said.append)
    assert not info.already_running
    assert survivors == "none" or any("left behind" in line for line in said)
    assert not unwell(config.home)
    assert_remembered(config, f"before-{survivors}")
    supervisors = [p for p in find_processes(config.home) if "supervisor.supervisord" in p.cmdline()]
    assert len(supervisors) == 1


def test_homes_that_start_together_get_ports_of_their_own(tmp_path: Path) -> None:
    homes = [tmp_path / name for name in "abc"]
    try:
        with ThreadPoolExecutor() as pool:
            infos = list(pool.map(lambda home: stack.up(home, parts=("s3",), timeout_s=60), homes))
        assert len({info.ports.s3 for info in infos}) == len(homes)
        assert [unwell(home) for home in homes] == [{}, {}, {}]
    finally:
        for home in homes:
            stack.down(home)


def test_down_ends_a_stack_whose_home_was_removed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    stack.up(home, parts=("s3",))
    shutil.rmtree(home)
    assert stack.down(home) >= 2
    assert find_processes(home) == []


@pytest.mark.e2e
def test_another_home_finds_ports_beside_the_first(config: Config, tmp_path: Path) -> None:
    second = tmp_path / "second"
    try:
        info = start(second, parts=("s3",))
        assert info.ports.s3 != config.ports.s3
        assert {p.name: p.state for p in stack.status(second)} == {"s3": "healthy"}
        assert stack.down(second) == 0
        assert not unwell(config.home)
    finally:
        stack.down(second)


@pytest.mark.e2e
def test_down_leaves_no_process_and_up_finds_everything_again(config: Config) -> None:
    remember(config, "before-down")
    assert stack.down(config.home) == 0
    assert find_processes(config.home) == []
    assert stack.down(config.home) == 0
    assert {part.state for part in stack.status(config.home)} == {"stopped"}
    start(config.home)
    assert_remembered(config, "before-down")
    assert read_config(config.home) == config


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_that_was_asked_for_is_refused_before_anything_starts(tmp_path: Path, taken_port: int) -> None:
    with pytest.raises(InputError) as refused:
        stack.up(tmp_path / "home", parts=("s3",), environ={"TIRE_PORT_S3": str(taken_port)})
    text = str(refused.value)
    assert f"port {taken_port} (s3) is held by process {os.getpid()}" in text
    assert "TIRE_PORT_S3=" in text
    assert find_processes(tmp_path / "home") == []
    assert not (tmp_path / "home" / "stack.env").exists()


def test_a_part_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    home = tmp_path / "home"
    tmp_path.chmod(0o755)
    try:
        start(home, parts=("postgres",))
        stack.down(home)
        with (home / "postgres" / "data" / "postgresql.conf").open("a") as file:
            file.write("nonsense = 1\n")
        with pytest.raises(ServiceUnavailable) as failed:
            start(home, parts=("postgres",), timeout_s=5)
        assert "postgres did not come up" in str(failed.value)
        assert 'unrecognized configuration parameter "nonsense"' in str(failed.value)
    finally:
        stack.down(home)
    assert find_processes(home) == []


def test_a_home_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(InputError, match="TIRE_HOME="):
        stack.up(tmp_path / "file" / "home", parts=("s3",))
    with pytest.raises(InputError, match="control characters"):
        stack.up(tmp_path / "it's", parts=("s3",))


def test_a_home_too_deep_for_a_socket_and_closed_to_other_users_works(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    home = tmp_path / ("deep" * 20) / ("deeper" * 10)
    try:
        start(home, parts=("postgres",))
        assert not unwell(home)
        assert stack.down(home) == 0
    finally:
        stack.down(home)


def test_too_little_disk_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_home, "FREE_MIN_BYTES", 10**18)
    with pytest.raises(OutOfResources, match="GB are free"):
        stack.up(tmp_path / "home", parts=("s3",))


def test_a_home_holds_one_project(tmp_path: Path) -> None:
    home = tmp_path / "home"
    try:
        stack.up(home, parts=("s3",), project="first")
        with pytest.raises(InputError, match="'first'"):
            stack.up(home, parts=("s3",), project="second")
        config = read_config(home)
        assert config is not None
        with pytest.raises(InputError, match="tire down"):
            stack.up(home, parts=("s3",), project="first", ports=replace(config.ports, s3=config.ports.s3 + 1))
    finally:
        stack.down(home)
