"""The command line as people meet it: a process with two streams and an exit code."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.servers import make_bundle
from tests.unit.serving.conftest import write_model
from tire_pipeline import steps
from tire_pipeline.cli import main
from tire_pipeline.errors import GateRefused

UNREACHABLE = {
    "TIRE_S3_ENDPOINT_URL": "http://127.0.0.1:9",
    "TIRE_S3_ACCESS_KEY_ID": "key",
    "TIRE_S3_SECRET_ACCESS_KEY": "geheim",
    "TIRE_MLFLOW_URL": "http://127.0.0.1:9",
    "TIRE_LEDGER_URL": "postgresql+psycopg2://ann:geheim@127.0.0.1:9/tire",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "AWS_MAX_ATTEMPTS": "1",
}


@pytest.fixture
def tire(tmp_path: Path):
    """Runs `tire …` where no stack was ever started and no variable of ours is set."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TIRE_", "AWS_", "MLFLOW_"))}
        return subprocess.run(
            [sys.executable, "-m", "tire_pipeline", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env={**clean, "TIRE_HOME": str(tmp_path / "home"), "COLUMNS": "100", **environment},
        )

    return run


def one_paragraph(stderr: str) -> bool:
    return stderr.startswith("error ") and "Traceback" not in stderr and "\n" not in stderr.strip()


def test_help_names_every_command_fast_and_loads_nothing_heavy(tire) -> None:
    start = time.monotonic()
    done = tire("--help", PYTHONPROFILEIMPORTTIME="1")
    took = time.monotonic() - start
    assert done.returncode == 0
    for command in ("up", "demo", "dataset", "validate", "split", "train", "stage", "produce", "rollback", "monitor"):
        assert f"│ {command} " in done.stdout
    names = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "tire_pipeline.cli" in names
    assert names & {"torch", "mlflow", "great_expectations", "pandas", "boto3", "numpy", "sqlalchemy"} == set()
    assert took < 10  # 0.5 s on an idle machine


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("validate", "Bad Name"), "'Bad Name' is not a dataset version name: it must be 1 to 63 of a-z"),
        (("train",), "'' is not a dataset version name"),
        (("train", "--dataset-version", "v1", "--model-type", "cnm"), "model_type is 'cnm', did you mean 'cnn'?"),
        (("train", "--dataset-version", "v1", "--optimizer-type", "adm"), "did you mean 'adam'?"),
        (("train", "--dataset-version", "v1", "--learning-rate", "-1"), "learning_rate is -1.0, but must be between"),
        (("train", "--spec", "absent.json"), "The spec 'absent.json' cannot be read"),
        (("train", "--spec", "{}"), "The spec '{}' lacks candidate, config, split"),
        (("stage", "acc"), "'acc' is no metric. Known are: accuracy, auprc, auroc, balanced_accuracy"),
        (("produce", "acc"), "'acc' is no metric"),
        (("evaluate", "run", "--metric", "acc"), "'acc' is no metric"),
        (("feedback", "absent.csv"), "The file absent.csv does not exist"),
        (("predict", "absent[1].jpg"), "absent[1].jpg does not exist"),
    ],
)
def test_bad_input_ends_with_2_and_one_paragraph_before_any_service_is_asked(tire, arguments, said: str) -> None:
    done = tire(*arguments, **UNREACHABLE)
    assert done.returncode == 2
    assert said in done.stderr
    assert one_paragraph(done.stderr)
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [("no-such-command",), ("validate",), ("train", "--epochs", "many")])
def test_wrong_usage_ends_with_2_and_says_what_is_meant(tire, arguments) -> None:
    done = tire(*arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_stack_the_command_that_starts_one_is_named(tire) -> None:
    done = tire("promotions")
    assert done.returncode == 2
    assert "TIRE_LEDGER_URL is not set, and no embedded stack was started here. `tire up` starts one" in done.stderr
    assert one_paragraph(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dataset", "show", "v1"), "S3 at http://127.0.0.1:9 did not answer"),
        (("promotions",), "The ledger (PostgreSQL) did not answer"),
        (("production-info",), "MLflow at http://127.0.0.1:9 did not answer"),
    ],
)
def test_a_service_that_cannot_be_reached_ends_with_3_names_its_address_and_no_secret(tire, arguments, said) -> None:
    done = tire(*arguments, "--json", **UNREACHABLE)
    assert done.returncode == 3
    assert said in done.stderr
    assert "`tire status`" in done.stderr
    assert one_paragraph(done.stderr)
    assert "geheim" not in done.stderr
    assert done.stdout == ""


def test_a_bundle_that_its_own_model_cannot_answer_for_ends_with_2_and_one_paragraph(tire, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", gain=1.0)
    write_model(bundle.path / "model.onnx", gain=1.0, size=99)
    bundle.save()
    done = tire("serve", "--bundle", str(bundle.path), "--port", "0")
    assert done.returncode == 2
    assert "cannot answer golden image 0" in done.stderr
    assert one_paragraph(done.stderr)


def test_debug_shows_where_an_error_comes_from(tire) -> None:
    done = tire("--debug", "validate", "Bad Name")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "check_version" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (MemoryError(), 4, "error Memory ran out. Use a smaller --batch-size"),
        (OSError(errno.ENOSPC, "No space left", "/x"), 4, "error The disk is full (/x). What was complete is kept."),
        (GateRefused("the gate said no [1]"), 1, "error the gate said no [1]"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error PermissionError: [Errno 13] Permission"),
    ],
)
def test_each_way_to_end_has_its_code(monkeypatch, capsys, error: BaseException, code: int, said: str) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(steps, "promotions", fail)
    with pytest.raises(SystemExit) as left:
        main(["promotions"])
    assert left.value.code == code
    assert capsys.readouterr().err.startswith(said)


def test_a_variable_that_cannot_be_used_ends_with_2(tire) -> None:
    done = tire("promotions", TIRE_PROJECT="Not A Name")
    assert done.returncode == 2
    assert "TIRE_PROJECT: String should match pattern" in done.stderr


def test_json_is_one_document_on_stdout_and_everything_else_goes_to_stderr(tire, tmp_path: Path) -> None:
    done = tire("--verbose", "sample", str(tmp_path / "out [1]"), "--num-images", "20", "--size", "64", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_images"] == 20


def test_a_path_with_brackets_is_printed_as_it_is(tire, tmp_path: Path) -> None:
    done = tire("sample", str(tmp_path / "[red]out[/x]"), "--num-images", "20", "--size", "64")
    assert done.returncode == 0, done.stderr
    assert "[red]out[/x]" in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "epochs is 0, but must be between 1 and 10000; learning_rate is -1,"),
        (("--learning-rate", "-2"), "epochs is 0, but must be between 1 and 10000; learning_rate is -2.0,"),
        (("--epochs", "3", "--model-type", "cnm"), "model_type is 'cnm', did you mean 'cnn'?"),
    ],
)
def test_flags_win_over_the_file(tire, tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    (tmp_path / "a.toml").write_text('dataset_version = "v1"\nmodel_type = "cnn"\nepochs = 0\nlearning_rate = -1\n')
    done = tire("train", "--config", str(tmp_path / "a.toml"), *flags, **UNREACHABLE)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_file_with_a_field_that_does_not_exist_is_refused(tire, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"dataset_version": "v1", "learn_rate": 0.1}')
    done = tire("train", "--config", str(tmp_path / "a.json"), **UNREACHABLE)
    assert done.returncode == 2
    assert "Unknown parameters: learn_rate." in done.stderr
