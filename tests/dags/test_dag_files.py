"""The DAG files as Airflow reads them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from airflow._shared.module_loading import find_path_from_directory
from tire_airflow.form import METRICS, trigger_form

from tire_pipeline import metrics, steps
from tire_pipeline.steps.request import TARGETS
from tire_pipeline.training.recipes import RECIPES

REPOSITORY = Path(__file__).parents[2]
HEAVY = {"torch", "torchvision", "mlflow", "great_expectations", "pandas", "boto3", "pyarrow", "sklearn", "onnxruntime"}
FILES = sorted([*(REPOSITORY / "dags").rglob("*.py"), *(REPOSITORY / "plugins").rglob("*.py")])

PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
heavy = sorted(set(json.loads(sys.argv[2])) & set(sys.modules))
tasks = {d: {t: sorted(task.upstream_task_ids) for t, task in dag.task_dict.items()} for d, dag in bag.dags.items()}
docs = {d: [dag.doc_md or "", sorted(dag.tags), dag.max_active_runs] for d, dag in bag.dags.items()}
from airflow.serialization.serialized_objects import DagSerialization
serialized = {d: json.dumps(DagSerialization.to_dict(dag), default=str) for d, dag in bag.dags.items()}
print(json.dumps([bag.import_errors, heavy, tasks, docs, serialized]))
"""
CANARY = "canary-secret-5f2c"


@pytest.fixture(scope="module")
def parsed() -> Any:
    """What a fresh process sees of the DAGs, with secrets in its environment that must not surface."""
    secrets = {f"TIRE_{n}": CANARY for n in ("S3_SECRET_ACCESS_KEY", "AIRFLOW_PASSWORD", "SLACK_WEBHOOK_URL")}
    secrets["TIRE_LEDGER_URL"] = f"postgresql+psycopg2://u:{CANARY}@h/d"
    answer = subprocess.run(
        [sys.executable, "-c", PARSE, str(REPOSITORY / "dags"), json.dumps(sorted(HEAVY))],
        env={**os.environ, **secrets, "TIRE_TRAINER": "docker"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout.splitlines()[-1])


def test_every_file_imports_and_the_three_dags_are_there(parsed: Any) -> None:
    errors, _, tasks, _, _ = parsed
    assert errors == {}
    assert set(tasks) == {"dataset_watch", "train_and_promote", "monitor_production"}


def test_parsing_loads_nothing_heavy_but_what_the_providers_own_sensor_loads(parsed: Any) -> None:
    code = "import sys; import airflow.providers.amazon.aws.sensors.s3; print(' '.join(sys.modules))"
    provider = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(parsed[1]) - set(provider) == set()
    assert not set(parsed[1]) & (HEAVY - {"boto3"})


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(REPOSITORY)))
def test_no_dag_or_plugin_file_imports_a_heavy_library_at_its_top(file: Path) -> None:
    imported = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert not imported & HEAVY


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")
def test_airflow_scans_one_file_of_ours_for_plugins() -> None:
    """It would load each under its bare name, in every process: `docker.py` would be everybody's `docker`."""
    scanned = set(find_path_from_directory(REPOSITORY / "plugins", ".airflowignore", "glob"))
    assert [Path(file).name for file in scanned if file.endswith(".py")] == ["tire_page.py"]


def test_the_pipeline_has_the_tasks_of_the_contract_in_their_order(parsed: Any) -> None:
    upstream = parsed[2]["train_and_promote"]
    assert set(upstream) == {
        *("plan_scan", "scan", "validate", "split", "train", "evaluate", "register", "stage"),
        *("check_serving", "approve", "produce", "report"),
    }
    order = [
        "plan_scan",
        "scan",
        "validate",
        "split",
        "train",
        "evaluate",
        "register",
        "stage",
        "check_serving",
        "approve",
        "produce",
    ]
    for before, after in pairwise(order):
        assert before in upstream[after]
    assert upstream["report"] == ["evaluate", "produce"]


def test_every_dag_has_a_runbook_and_tags_and_runs_alone(parsed: Any) -> None:
    for dag_id, (doc, tags, max_active_runs) in parsed[3].items():
        assert f"### {dag_id}" in doc
        assert "tire" in tags
        assert max_active_runs == 1


def test_the_page_of_validate_has_a_button_to_the_report_on_the_data(parsed: Any) -> None:
    tasks = json.loads(parsed[4]["train_and_promote"])["dag"]["tasks"]
    links = {t["__var"]["task_id"]: t["__var"].get("_operator_extra_links") for t in tasks}
    assert links["validate"] == {"Report on the data": "_link_DataReportLink"}


def test_no_secret_is_in_a_serialised_dag(parsed: Any) -> None:
    assert all(text and CANARY not in text for text in parsed[4].values())


def test_the_form_offers_what_the_steps_accept() -> None:
    form = trigger_form()
    assert set(METRICS) <= set(metrics.names(has_positive=True))
    assert set(form["candidates"].schema["examples"]) == set(RECIPES)
    defaults = {k: p.value for k, p in form.items() if k != "dataset_version"}
    for target in TARGETS:
        assert steps.check_request({"dataset_version": "v1", **defaults, "target": target}).target == target
