from __future__ import annotations

import os
import stat
from dataclasses import asdict
from pathlib import Path

import pytest

from tire_pipeline.errors import InputError
from tire_pipeline.settings import Settings
from tire_pipeline.stack.config import Config, check_home, new_secrets, read_config, stack_id, write_config
from tire_pipeline.stack.records import Ports


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = Config(tmp_path, "tyres-2", Ports(s3=1), new_secrets())
    write_config(config)
    return config


def test_what_was_written_is_read_back(config: Config) -> None:
    assert read_config(config.home) == config
    assert read_config(config.home / "elsewhere") is None


def test_the_file_is_private_and_nothing_else_is_left(config: Config) -> None:
    assert [path.name for path in config.home.iterdir()] == ["stack.env"]
    assert stat.S_IMODE(config.file.stat().st_mode) == 0o600


def test_settings_understand_the_file(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TIRE_")]:
        monkeypatch.delenv(name)
    settings = Settings(_env_file=config.file)  # type: ignore[call-arg]
    assert settings.project == "tyres-2"
    assert settings.s3_endpoint_url == "http://127.0.0.1:1"
    assert settings.ledger_url is not None
    assert settings.ledger_url.get_secret_value() == config.database_url("ledger")
    assert settings.airflow_password is not None
    assert settings.airflow_password.get_secret_value() == config.secrets.airflow_password


def test_lines_that_people_add_are_kept_and_passed_on(config: Config) -> None:
    with config.file.open("a") as file:
        file.write("TIRE_SLACK_WEBHOOK_URL=http://127.0.0.1/${x}\n")
    found = read_config(config.home)
    assert found is not None
    assert found.settings()["TIRE_SLACK_WEBHOOK_URL"] == "http://127.0.0.1/${x}"
    write_config(found)
    assert read_config(config.home) == found


def test_a_moved_home_is_the_stack_it_was_in_its_new_place(config: Config, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    config.file.rename(tmp_path / "moved" / "stack.env")
    found = read_config(tmp_path / "moved")
    assert found is not None
    assert (found.settings()["TIRE_HOME"], found.secrets) == (str(tmp_path / "moved"), config.secrets)


@pytest.mark.parametrize("damage", ["", "TIRE_PROJECT=x\n", "garbage"])
def test_a_damaged_file_is_refused_rather_than_replaced(config: Config, damage: str) -> None:
    config.file.write_text(damage)
    with pytest.raises(InputError, match="damaged"):
        read_config(config.home)
    assert config.file.read_text() == damage


def test_secrets_are_new_for_every_stack_and_shown_by_no_repr(config: Config) -> None:
    one, other = asdict(new_secrets()), asdict(new_secrets())
    assert not set(one.values()) & set(other.values())
    assert len(set(one.values())) == len(one)
    assert len(one["airflow_jwt_secret"]) >= 64
    assert not [value for value in asdict(config.secrets).values() if value in repr(config)]


def test_homes_have_ids_of_their_own_and_symlinks_do_not(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert stack_id(tmp_path) == stack_id(tmp_path / "link") != stack_id(tmp_path / "other")


@pytest.mark.parametrize("name", ["it's", 'a"b', "a$b", "a%b", "a\nb", "a\\b"])
def test_a_home_that_configuration_files_would_misread_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="TIRE_HOME"):
        check_home(Path("/tmp") / name)


def test_the_home_of_a_person_is_no_home_of_a_stack() -> None:
    for home in (Path.home(), Path("/")):
        with pytest.raises(InputError, match="one of its own"):
            check_home(home)
