from pathlib import Path

import pytest

from tire_pipeline.errors import InputError
from tire_pipeline.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TIRE_PROJECT", "TIRE_BUCKET", "TIRE_LEDGER_URL", "TIRE_POSITIVE_CLASS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TIRE_HOME", str(tmp_path))


def test_the_environment_beats_the_stacks_file_which_beats_the_defaults(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "stack.env").write_text("TIRE_BUCKET=ours\nTIRE_PROJECT=pitting\nTIRE_S3_SECRET_ACCESS_KEY=geheim\n")
    monkeypatch.setenv("TIRE_PROJECT", "other")
    settings = load_settings()
    assert (settings.bucket, settings.project, settings.positive_class) == ("ours", "other", "defective")
    assert settings.home == tmp_path
    assert "geheim" not in repr(settings)


def test_what_cannot_be_used_is_named_by_its_variable_and_secrets_are_not_shown(monkeypatch) -> None:
    monkeypatch.setenv("TIRE_PROJECT", "Not A Name")
    monkeypatch.setenv("TIRE_TRAINER", "abacus")
    monkeypatch.setenv("TIRE_S3_SECRET_ACCESS_KEY", "geheim")
    with pytest.raises(InputError) as refused:
        load_settings()
    assert "TIRE_PROJECT: String should match pattern" in str(refused.value)
    assert "TIRE_TRAINER: should be 'process', 'docker', 'kubernetes' or 'sagemaker'" in str(refused.value)
    assert "geheim" not in str(refused.value)


def test_some_requests_are_always_the_champions(monkeypatch) -> None:
    monkeypatch.setenv("TIRE_CANARY_WEIGHT", "1.0")
    with pytest.raises(InputError, match="TIRE_CANARY_WEIGHT: should be less than 1"):
        load_settings()


def test_an_empty_variable_counts_as_unset_and_a_relative_home_becomes_absolute(monkeypatch) -> None:
    monkeypatch.setenv("TIRE_BUCKET", "")
    monkeypatch.setenv("TIRE_HOME", ".tire")
    assert load_settings().bucket == "tire"
    assert load_settings().home == Path.cwd() / ".tire"


def test_no_secret_has_a_default() -> None:
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    names = [n for n, f in Settings.model_fields.items() if "SecretStr" in str(f.annotation)]
    assert len(names) >= 5
    assert all(getattr(settings, n) is None for n in names)
