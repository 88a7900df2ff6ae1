from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from tire_pipeline.serving.server import DRAIN_S
from tire_pipeline.stack.config import Config, new_secrets
from tire_pipeline.stack.parts import build_parts
from tire_pipeline.stack.records import AIRFLOW_PARTS, ALL_PARTS, Part, Ports

CONFIG = Config(Path("/stack"), "tire-defect", Ports(), new_secrets())
SHELL = {
    "PATH": "/usr/bin",
    "TIRE_SLACK_WEBHOOK_URL": "http://127.0.0.1:1/hook",
    "TIRE_MLFLOW_URL": "http://elsewhere",
    "TIRE_PORT_S3": "1",
    "AWS_PROFILE": "work",
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "PGPORT": "1",
    "PYTHONPATH": "/elsewhere",
    "NO_PROXY": "intranet",
}


@pytest.fixture(scope="module")
def parts() -> dict[str, Part]:
    return build_parts(CONFIG, SHELL, account=None)


def test_every_part_is_built_in_start_order(parts: dict[str, Part]) -> None:
    assert tuple(parts) == ALL_PARTS


def test_no_command_line_and_no_repr_holds_a_secret(parts: dict[str, Part]) -> None:
    shown = " ".join(" ".join(part.argv) + repr(part) for part in parts.values())
    assert not [value for value in asdict(CONFIG.secrets).values() if value in shown]


def test_a_part_knows_only_what_it_needs(parts: dict[str, Part]) -> None:
    secrets = CONFIG.secrets
    assert set(parts["postgres"].env) == {"TIRE_STACK_ID", "PATH", "LC_ALL"}
    for name in ("s3", "mlflow", "serving"):
        assert secrets.airflow_jwt_secret not in parts[name].env.values()
    assert secrets.postgres_password not in {value for part in parts.values() for value in part.env.values()}


def test_every_part_is_marked_as_ours(parts: dict[str, Part]) -> None:
    assert {part.env["TIRE_STACK_ID"] for part in parts.values()} == {CONFIG.stack_id}


@pytest.mark.parametrize("name", [*AIRFLOW_PARTS, "serving"])
def test_the_product_sees_the_callers_choices_but_the_stacks_addresses(parts: dict[str, Part], name: str) -> None:
    env = parts[name].env
    assert env["TIRE_SLACK_WEBHOOK_URL"] == SHELL["TIRE_SLACK_WEBHOOK_URL"]
    assert env["TIRE_MLFLOW_URL"] == "http://127.0.0.1:15000"
    assert not {"AWS_PROFILE", "PGPORT", "TIRE_PORT_S3"} & set(env)
    assert env.get("AIRFLOW__CORE__EXECUTOR") in (None, "LocalExecutor")
    assert env["NO_PROXY"] == "intranet,127.0.0.1,localhost"


def test_all_airflow_processes_share_one_environment(parts: dict[str, Part]) -> None:
    first, *others = (parts[name].env for name in AIRFLOW_PARTS)
    assert all(first == other for other in others)


def test_the_server_has_time_to_answer_what_it_has_taken(parts: dict[str, Part]) -> None:
    assert parts["serving"].stop_wait_s >= DRAIN_S + 5
