"""The Docker operator against a real engine, without an Airflow around it; seconds each."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from tire_airflow.trainers import docker_trainer, outcome

from tests.e2e.conftest import wait_for
from tests.e2e.engine import needs_image
from tests.e2e.stand_in import BASE, IMAGE, build, names

pytestmark = needs_image(BASE)
TI = {"dag_id": "d", "task_id": "train", "map_index": 0, "log_url": "http://airflow/log", "xcom_push": lambda **_: None}


@pytest.fixture(scope="module", autouse=True)
def image() -> Iterator[None]:
    build()
    yield
    for name in names("", everything=True):
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=True)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Makes (operator, execute) for a spec; each test is a run of its own."""
    for name, value in {"HOME": tmp_path, "TRAINER_IMAGE": IMAGE, "S3_SECRET_ACCESS_KEY": "canary-secret"}.items():
        monkeypatch.setenv(f"TIRE_{name}", str(value))
    monkeypatch.setattr(outcome, "keep_reason", lambda _: None)
    monkeypatch.setattr(docker_trainer.steps, "newest_try", lambda *_: 1)

    def make(*, try_number: int = 1, **spec: Any) -> tuple[Any, Callable[[], Any]]:
        whole = {"candidate": "cnn", "seconds": "1", "deaf": "False", "code": "0", **spec}
        operator = docker_trainer.DockerTrainOperator(task_id="train", spec=whole)
        ti = SimpleNamespace(**TI, run_id=request.node.name, try_number=try_number)
        return operator, lambda: operator.execute({"ti": ti})

    return make


def inspected(run_id: str) -> dict[str, Any]:
    (name,) = wait_for(lambda: names(run_id), timeout_s=30, what="a container")
    found: dict[str, Any] = docker.APIClient().inspect_container(name)
    return found


def in_background(execute: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Runs the task in a thread; what it returned or raised is in the list at its end."""
    said: list[Any] = []

    def run() -> None:
        try:
            said.append(execute())
        except BaseException as error:
            said.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, said


def test_a_container_gives_its_result_and_is_gone(task: Any, request: pytest.FixtureRequest) -> None:
    _, execute = task()
    assert execute() == {"run_id": "stand-in", "seconds": 1}
    assert names(request.node.name, everything=True) == []


def test_a_container_may_do_little_and_has_the_limits_it_was_given(
    task: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIRE_TRAINER_MEMORY", "64m")
    operator, execute = task(seconds="60")
    thread, _ = in_background(execute)
    host = inspected(request.node.name)["HostConfig"]
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges"])
    assert (host["ReadonlyRootfs"], host["Privileged"], host["PidsLimit"]) == (True, False, 1024)
    assert host["Memory"] == 64 * 2**20
    assert host["LogConfig"]["Config"] == {"max-size": "50m", "max-file": "2"}
    operator.on_kill()
    thread.join(20)
    assert not thread.is_alive()


def test_a_second_try_follows_the_container_of_the_first_and_both_have_its_result(
    task: Any, request: pytest.FixtureRequest
) -> None:
    _, first = task(seconds="6")
    thread, said = in_background(first)
    container = inspected(request.node.name)["Id"]
    _, second = task(seconds="6", try_number=2)
    other, answered = in_background(second)
    assert [inspected(request.node.name)["Id"] for _ in range(3)] == [container] * 3
    thread.join(40)
    other.join(40)
    results = [s for s in (*said, *answered) if isinstance(s, dict)]
    assert results[0] == {"run_id": "stand-in", "seconds": 6}  # the other may find the container gone, and be retried
    assert all(isinstance(s, (dict, AirflowException)) for s in (*said, *answered))
    assert names(request.node.name, everything=True) == []


def test_a_try_that_is_told_to_stop_leaves_the_container_to_a_newer_one(
    task: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, execute = task(seconds="60")
    thread, _ = in_background(execute)
    container = inspected(request.node.name)["Id"]
    monkeypatch.setattr(docker_trainer.steps, "newest_try", lambda *_: 2)
    operator.on_kill()
    assert inspected(request.node.name)["Id"] == container
    monkeypatch.setattr(docker_trainer.steps, "newest_try", lambda *_: 1)
    operator.on_kill()
    thread.join(20)
    assert names(request.node.name, everything=True) == []


def test_a_trainer_that_ignores_sigterm_is_killed_before_airflow_kills_the_task(
    task: Any, request: pytest.FixtureRequest
) -> None:
    operator, execute = task(seconds="60", deaf="True")
    thread, said = in_background(execute)
    inspected(request.node.name)
    thread.join(2)  # it has begun to ignore
    killer, _ = in_background(operator.on_kill)
    killer.join(5)
    assert not killer.is_alive()
    assert names(request.node.name, everything=True) == []
    thread.join(10)
    assert isinstance(said[0], AirflowException)


def test_what_a_failed_container_said_is_the_tasks_reason_and_bad_input_is_not_retried(task: Any) -> None:
    _, execute = task(code="2")
    with pytest.raises(AirflowFailException, match="the spec asked for it"):
        execute()


def test_a_container_that_is_killed_for_memory_says_which_limit_it_met(
    task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIRE_TRAINER_MEMORY", "32m")
    _, execute = task(megabytes="200")
    with pytest.raises(AirflowException, match=r"killed for memory \(limit: 32m\).*TIRE_TRAINER_MEMORY"):
        execute()


def test_each_training_gets_a_gpu_of_its_own_and_a_pool_that_is_too_large_is_named(
    task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIRE_TRAINER_GPUS", "2")
    operator, _ = task()
    operator.job = SimpleNamespace(labels={"deployment": "d"})
    holders = []
    try:
        for wanted in ("0", "1"):
            assert operator._free_gpu(2) == wanted
            command = [
                "docker",
                "run",
                "--detach",
                "--label",
                f"tire.gpu={wanted}",
                "--entrypoint",
                "sleep",
                IMAGE,
                "60",
            ]
            holders.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        with pytest.raises(AirflowException, match="pool `gpu` must have 2 slots"):
            operator._free_gpu(2)
    finally:
        subprocess.run(["docker", "rm", "--force", *holders], capture_output=True, check=True)
    assert operator.pool == operator.queue == "gpu"
