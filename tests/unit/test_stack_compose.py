from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tire_pipeline.errors import InputError
from tire_pipeline.serving.server import DRAIN_S
from tire_pipeline.settings import Settings
from tire_pipeline.stack.compose import REPOSITORY, Compose, host_settings
from tire_pipeline.stack.startup import pools

EMPTY = {
    "DOCKER_GID",
    "TIRE_API_KEYS",
    "TIRE_PARITY_INT8_FLIPS_MAX",
    "TIRE_SLACK_WEBHOOK_URL",
    "TIRE_TRAINER_MEMORY",
    "TIRE_WEIGHTS",
}
OF_THE_SERVER_ALONE = {"api_keys", "shadow_alias", "canary_weight"}
OF_THE_IMAGES = {"home"}
OF_OTHER_TRAINERS = {name for name in Settings.model_fields if name.startswith(("kubernetes_", "sagemaker_"))}
FIXED = {"airflow_user"}


def environment() -> dict[str, str]:
    """What `docker/make_env.py` makes, as Compose reads it."""
    spec = importlib.util.spec_from_file_location("make_env", REPOSITORY / "docker" / "make_env.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = module.filled(module.EXAMPLE.read_text()).splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())["services"]
    return found


def test_every_secret_is_made_anew_and_fits_into_a_url() -> None:
    first, second = environment(), environment()
    example = dict(line.split("=", 1) for line in (REPOSITORY / ".env.example").read_text().splitlines() if "=" in line)
    secrets = {name for name, value in example.items() if value == "" and not name.startswith("#")} - EMPTY
    assert len(secrets) == 11
    for name in secrets:
        assert first[name] != second[name]
        assert len(first[name]) >= 20
    assert first["AIRFLOW_DB_PASSWORD"].isalnum()
    assert len(first["AIRFLOW_JWT_SECRET"]) >= 64  # fewer, and Airflow's parts would sign with too weak a key


def test_the_host_reaches_the_stack_by_its_published_ports() -> None:
    found = host_settings(Settings(_env_file=None), {**environment(), "S3_PORT": "9", "AIRFLOW_PORT": ""})
    assert found.s3_endpoint_url == "http://127.0.0.1:9"
    assert found.airflow_url == "http://127.0.0.1:8080"
    assert found.mlflow_url == "http://127.0.0.1:5000"


def test_a_stack_on_aws_or_on_an_s3_elsewhere_keeps_its_endpoint() -> None:
    for url in ("", "https://s3.example"):
        made = host_settings(Settings(_env_file=None), {**environment(), "TIRE_S3_ENDPOINT_URL": url})
        assert made.s3_endpoint_url == url


def test_a_stack_without_secrets_is_refused_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"python3 docker/make_env\.py > .*\.env"):
        Compose(Settings(_env_file=None), env_file=tmp_path / ".env").up()


def test_a_host_with_gpus_has_a_slot_for_each() -> None:
    assert {p["name"]: p["slots"] for p in pools(4)}["gpu"] == 4
    assert {p["name"]: p["slots"] for p in pools(0)}["gpu"] == 1


def passed(service: str) -> set[str]:
    """The settings that the file gives a service, by their names in `Settings`."""
    names = services()[service]["environment"]
    return {name.removeprefix("TIRE_").lower() for name in names if name.startswith("TIRE_")} & set(
        Settings.model_fields
    )


def test_every_part_is_given_every_setting_that_it_reads() -> None:
    left_out = OF_THE_IMAGES | OF_OTHER_TRAINERS | FIXED
    for service in ("airflow-scheduler", "airflow-worker", "airflow-gpu-worker", "airflow-triggerer", "migrate"):
        assert passed(service) == set(Settings.model_fields) - OF_THE_SERVER_ALONE - left_out
    code = "".join((REPOSITORY / "tire_pipeline" / f).read_text() for f in ("serving/server.py", "stores/objects.py"))
    read = set(re.findall(r"settings\.(\w+)", code.replace("api_key_digests", "api_keys"))) & set(Settings.model_fields)
    assert read > OF_THE_SERVER_ALONE
    assert passed("serving") >= read - OF_THE_IMAGES


def test_limits_and_keys_can_be_set_in_env() -> None:
    text = (REPOSITORY / "docker-compose.yaml").read_text()
    for name in OF_THE_SERVER_ALONE | {n for n in Settings.model_fields if n.startswith(("check_", "parity_"))}:
        variable = f"TIRE_{name.upper()}"
        assert f"{variable}: ${{{variable}:-}}" in text
        assert f"\n{variable}=" in (REPOSITORY / ".env.example").read_text()


def test_what_env_example_says_is_what_holds_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    example = dict(line.split("=", 1) for line in (REPOSITORY / ".env.example").read_text().splitlines() if "=" in line)
    names = [n for n in Settings.model_fields if n in OF_THE_SERVER_ALONE or n.startswith(("check_", "parity_"))]
    bare = Settings(_env_file=None)
    for name in names:
        monkeypatch.setenv(f"TIRE_{name.upper()}", example[f"TIRE_{name.upper()}"])
    assert [getattr(Settings(_env_file=None), n) for n in names] == [getattr(bare, n) for n in names]
    for name in names:
        monkeypatch.setenv(f"TIRE_{name.upper()}", "")
    assert [getattr(Settings(_env_file=None), n) for n in names] == [getattr(bare, n) for n in names]


def test_the_server_has_time_to_answer_what_it_has_taken() -> None:
    assert int(services()["serving"]["stop_grace_period"].removesuffix("s")) >= DRAIN_S + 5
