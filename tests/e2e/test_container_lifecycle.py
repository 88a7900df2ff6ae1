"""Whatever is killed: never two containers for one candidate, none left after the task's end, and the run ends as it
should. A real Airflow and a real Docker engine; the trainer is a stand-in that waits. Minutes long: `make chaos`."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from tests.e2e.conftest import wait_for
from tests.e2e.engine import needs_image
from tests.e2e.stand_in import BASE, IMAGE, build, names, running
from tire_pipeline import stack
from tire_pipeline.settings import STACK_ENV, Settings
from tire_pipeline.stack import migrations
from tire_pipeline.stack.airflow_env import passwords_file
from tire_pipeline.stack.config import Config, read_config, write_private
from tire_pipeline.stack.parts import build_parts
from tire_pipeline.stack.records import AIRFLOW_PARTS
from tire_pipeline.stack.startup import ensure_pools
from tire_pipeline.wiring import Services, services

HERE = Path(__file__).parent
LEFT_S = 30


pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800), needs_image(BASE)]


@dataclass
class Airflow:
    """Airflow's four processes, each a group of its own, and a watch over the containers."""

    parts: dict[str, Any]
    logs: Path
    live: Services
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    seen: list[list[tuple[str, str]]] = field(default_factory=list)
    watching: threading.Event = field(default_factory=threading.Event)

    def start(self, name: str) -> None:
        part = self.parts[name]
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                part.argv, env=part.env, cwd=part.cwd, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """kill -9 of the process and all that it started, in whatever group: what an out-of-memory killer leaves."""
        process = psutil.Process(self.running[name].pid)
        for one in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.running[name].wait()

    def trigger(self, dag_id: str, **conf: Any) -> str:
        answer = self.live.orchestrator._request(
            "POST", f"/api/v2/dags/{dag_id}/dagRuns", json={"conf": conf, "logical_date": None}
        )
        assert answer.is_success, answer.text
        return str(answer.json()["dag_run_id"])

    def task(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return self.live.orchestrator.task_instance(dag_id, run_id, "train") or {}

    def ended(self, dag_id: str, run_id: str, *, timeout_s: float = 300) -> dict[str, Any]:
        def record() -> Any:
            found = self.live.orchestrator.run(dag_id, run_id)
            return found if found and found["state"] in ("success", "failed") else None

        return dict(wait_for(record, timeout_s=timeout_s, what=f"the end of {dag_id} {run_id}"))

    def container(self, run_id: str, *, timeout_s: float = 120) -> str:
        """The name of the run's container, once it runs."""
        return str(wait_for(lambda: names(run_id), timeout_s=timeout_s, what=f"a container of {run_id}")[0])

    def kill_runner(self, dag_id: str, run_id: str) -> None:
        """kill -9 of the process in which the training task itself is; its supervisor lives on."""
        title = f"airflow worker -- {self.task(dag_id, run_id)['id']}"
        scheduler = psutil.Process(self.running["airflow-scheduler"].pid)

        def found() -> Any:
            return [p for p in scheduler.children(recursive=True) if _title(p) == title]

        (runner,) = wait_for(found, timeout_s=20, what=f"a process with the title {title!r}")
        runner.kill()

    def watch(self) -> None:
        """Look at the engine five times a second and keep what runs."""
        while not self.watching.wait(0.2):
            self.seen.append(running())

    def starts(self, name: str) -> int:
        """How many containers had this name, one after the other."""
        return len({container_id for look in self.seen for n, container_id in look if n == name})


def _title(process: psutil.Process) -> str:
    """Empty for one that has ended."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline()).strip()
    return ""


def none_left(run_id: str) -> None:
    """No container of the run is left LEFT_S after its task's end, not even a stopped one."""
    wait_for(lambda: not names(run_id, everything=True), timeout_s=LEFT_S, what=f"the removal of {run_id}'s container")


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    build()
    home = tmp_path_factory.mktemp("lifecycle") / "home"
    stack.up(home, parts=("postgres",), environ={})
    started = _airflow(home)
    try:
        yield started
    finally:
        started.watching.set()
        started.live.close()
        for name in started.running:
            started.kill(name)
        stack.down(home)
        for name in names("", everything=True):
            subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=True)


def _airflow(home: Path) -> Airflow:
    config = read_config(home)
    assert config is not None
    environ = {**os.environ, "TIRE_TRAINER": "docker", "TIRE_TRAINER_IMAGE": IMAGE}
    parts = {name: p for name, p in build_parts(config, environ, account=None).items() if name in AIRFLOW_PARTS}
    dags = home / "dags"
    dags.mkdir()
    (dags / "lifecycle_dags.py").symlink_to(HERE / "lifecycle_dags.py")
    for part in parts.values():
        part.cwd.mkdir(parents=True, exist_ok=True)
        part.env.update(AIRFLOW__CORE__DAGS_FOLDER=str(dags), AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT="30")
    write_private(passwords_file(config), f'{{"admin": "{config.secrets.airflow_password}"}}\n')
    migrations.migrate("airflow", config, parts, migrate_ledger=None)
    made = Airflow(parts, home / "logs", services(Settings(_env_file=home / STACK_ENV)))  # type: ignore[call-arg]
    for name in AIRFLOW_PARTS:
        made.start(name)
    _ready(made, config)
    threading.Thread(target=made.watch, daemon=True).start()
    return made


def _ready(made: Airflow, config: Config) -> None:
    def dags_are_there() -> bool:
        with suppress(Exception):
            ensure_pools(config)
            return len(made.live.orchestrator.get("/api/v2/dags")["dags"]) == 4
        return False

    wait_for(dags_are_there, timeout_s=120, what="Airflow with its DAGs")


def tries(airflow: Airflow, dag_id: str, run_id: str) -> int:
    return int(airflow.task(dag_id, run_id)["try_number"])


def test_a_killed_task_is_tried_again_and_the_next_try_follows_the_container_that_still_trains(
    airflow: Airflow,
) -> None:
    run_id = airflow.trigger("retried", seconds=30)
    name = airflow.container(run_id)
    airflow.kill_runner("retried", run_id)
    assert airflow.ended("retried", run_id)["state"] == "success"
    assert tries(airflow, "retried", run_id) == 2
    none_left(run_id)
    assert airflow.starts(name) == 1


def test_a_task_that_is_killed_in_its_last_try_leaves_no_container(airflow: Airflow) -> None:
    run_id = airflow.trigger("once", seconds=600)
    airflow.container(run_id)
    airflow.kill_runner("once", run_id)
    assert airflow.ended("once", run_id)["state"] == "failed"
    none_left(run_id)


def test_the_death_of_the_scheduler_and_all_its_tasks_costs_no_training(airflow: Airflow) -> None:
    run_id = airflow.trigger("retried", seconds=90)
    name = airflow.container(run_id)
    airflow.kill("airflow-scheduler")
    assert names(run_id) == [name]
    airflow.start("airflow-scheduler")
    assert airflow.ended("retried", run_id, timeout_s=400)["state"] == "success"
    assert airflow.starts(name) == 1
    none_left(run_id)


def test_what_ended_while_nobody_watched_is_taken_as_it_is(airflow: Airflow) -> None:
    run_id = airflow.trigger("retried", seconds=12)
    name = airflow.container(run_id)
    airflow.kill("airflow-scheduler")
    wait_for(lambda: not names(run_id), timeout_s=60, what="the training's end")
    assert names(run_id, everything=True) == [name]
    airflow.start("airflow-scheduler")
    assert airflow.ended("retried", run_id, timeout_s=400)["state"] == "success"
    result = airflow.live.orchestrator.xcom("retried", run_id, "train")
    assert result["seconds"] == 12
    none_left(run_id)


def test_a_training_over_its_time_is_ended_with_its_task(airflow: Airflow) -> None:
    run_id = airflow.trigger("limited", seconds=600)
    airflow.container(run_id)
    assert airflow.ended("limited", run_id)["state"] == "failed"
    none_left(run_id)


@pytest.mark.parametrize("deaf", [False, True], ids=["listens", "ignores SIGTERM"])
def test_a_task_marked_failed_ends_its_training_even_one_that_ignores_sigterm(airflow: Airflow, deaf: bool) -> None:
    run_id = airflow.trigger("once", seconds=600, deaf=deaf)
    airflow.container(run_id)
    airflow.live.orchestrator._request(
        "PATCH", f"/api/v2/dags/once/dagRuns/{run_id}/taskInstances/train", json={"new_state": "failed"}
    )
    assert airflow.ended("once", run_id)["state"] == "failed"
    none_left(run_id)


def test_a_cleared_task_trains_anew_and_only_once_at_a_time(airflow: Airflow) -> None:
    run_id = airflow.trigger("retried", seconds=60, deaf=True)
    name = airflow.container(run_id)
    answer = airflow.live.orchestrator._request(
        "POST",
        "/api/v2/dags/retried/clearTaskInstances",
        json={
            "dag_run_id": run_id,
            "task_ids": ["train"],
            "dry_run": False,
            "only_failed": False,
            "only_running": False,
        },
    )
    assert answer.is_success, answer.text
    wait_for(lambda: airflow.starts(name) == 2, timeout_s=300, what="a second training")
    assert airflow.ended("retried", run_id)["state"] == "success"
    none_left(run_id)


def test_a_trainer_that_refuses_its_spec_is_not_tried_again(airflow: Airflow) -> None:
    run_id = airflow.trigger("retried", seconds=1, code=2)
    assert airflow.ended("retried", run_id)["state"] == "failed"
    assert tries(airflow, "retried", run_id) == 1
    none_left(run_id)


def test_no_secret_is_in_airflows_database_or_in_a_log(airflow: Airflow) -> None:
    """Serialised DAGs, rendered fields, XComs, audit log: every row of every table, and every file of logs."""
    settings = airflow.live.settings
    secrets = [settings.s3_secret_access_key, settings.s3_access_key_id, settings.airflow_password]
    planted = [secret.get_secret_value() for secret in secrets if secret]
    assert len(planted) == 3
    url = airflow.parts["airflow-scheduler"].env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        assert {"serialized_dag", "rendered_task_instance_fields", "xcom", "log"} <= set(tables)
        for table in tables:
            text = "\n".join(connection.execute(sa.text(f'SELECT t::text FROM "{table}" t')).scalars())  # noqa: S608
            assert not any(secret in text for secret in planted), table
            assert table != "rendered_task_instance_fields" or "seconds" in text
    engine.dispose()
    files = [f for f in (airflow.logs.parent / "airflow" / "logs").rglob("*.log") if f.is_file()]
    assert any("second 0 of" in f.read_text(errors="replace") for f in files)
    for file in [*files, *airflow.logs.glob("*.log")]:
        assert not any(secret in file.read_text(errors="replace") for secret in planted), file


def test_there_were_never_two_containers_for_one_candidate(airflow: Airflow) -> None:
    """Of all that came before: five looks a second, and what the engine itself keeps of starts."""
    assert len(airflow.seen) > 100
    for look in airflow.seen:
        assert len(look) <= 1  # the tests run one training at a time
    assert names("", everything=True) == []
