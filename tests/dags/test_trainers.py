"""The four trainers: one job, and what each makes of it. The two clouds' requests are held against their schemas."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.session
import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s
from tire_airflow.trainers import OPERATORS, outcome, train_operator
from tire_airflow.trainers.job import TrainerJob, job_name, placement, training_job
from tire_airflow.trainers.kubernetes_trainer import KubernetesTrainOperator, exit_of
from tire_airflow.trainers.process_trainer import ProcessTrainOperator
from tire_airflow.trainers.sagemaker_trainer import SageMakerTrainOperator, training_request

from tire_pipeline.errors import InputError
from tire_pipeline.settings import Settings

TI = SimpleNamespace(
    dag_id="train_and_promote",
    run_id="dataset__v1__0a1b2c3d",
    task_id="train",
    map_index=0,
    try_number=1,
    log_url="http://airflow/log",
    stats_tags={},
    xcom_push=lambda **_: None,
)
SPEC = {
    "candidate": "timm:resnet_18",
    "split": {"snapshot": {"classes": ["good", "defective"]}},
    "config": {"epochs": 2},
}
SETTINGS = Settings(
    _env_file=None,
    trainer_image="registry.example/tire-trainer:1",
    trainer_gpus=2,
    trainer_memory="8g",
    s3_access_key_id="canary-key",
    s3_secret_access_key="canary-secret",
    ledger_url="canary-ledger",
    airflow_password="canary-airflow",
    mlflow_url="http://mlflow:5000",
    kubernetes_secret="tire-s3",
    sagemaker_role_arn="arn:aws:iam::123456789012:role/tire",
    sagemaker_subnets="subnet-0a1b2c3d",
    sagemaker_security_groups="sg-0a1b2c3d",
)


def job(settings: Settings = SETTINGS, spec: Any = None) -> TrainerJob:
    return training_job(spec or SPEC, {"ti": TI}, settings)


def test_a_job_has_what_a_trainer_needs_and_shows_no_secret() -> None:
    made = job()
    assert made.secrets["TIRE_S3_SECRET_ACCESS_KEY"].get_secret_value() == "canary-secret"
    assert set(made.secrets) == {"TIRE_S3_ACCESS_KEY_ID", "TIRE_S3_SECRET_ACCESS_KEY"}
    assert "canary" not in repr(made)
    assert "canary" not in json.dumps(made.environment)
    assert made.environment["TIRE_MLFLOW_URL"] == "http://mlflow:5000"


def test_a_name_is_of_one_candidate_of_one_run_of_one_deployment_and_is_a_dns_label() -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", job().name)
    assert job().name == job().name
    others = [("d2", "run", SPEC), ("d1", "run2", SPEC), ("d1", "run", {**SPEC, "candidate": "cnn"})]
    names = {job_name(deployment, "dag", run, spec) for deployment, run, spec in [("d1", "run", SPEC), *others]}
    assert len(names) == 4


def test_a_training_takes_a_slot_of_the_gpu_pool_where_there_are_gpus() -> None:
    assert placement(SETTINGS)["pool"] == placement(SETTINGS)["queue"] == "gpu"
    assert placement(Settings(_env_file=None))["pool"] == "train"
    assert "queue" not in placement(Settings(_env_file=None))


def test_the_operator_is_chosen_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for trainer, name in OPERATORS.items():
        monkeypatch.setenv("TIRE_TRAINER", trainer)
        operator = train_operator()(task_id="train", spec=SPEC)
        assert type(operator).__name__ == name
        assert operator.template_fields == ("spec",)


# SageMaker


def problems(shape: Any, value: Any, where: str = "request") -> list[str]:
    """What the service model says against a value. botocore's own check leaves out patterns and upper bounds."""
    found = []
    if shape.type_name == "structure":
        found = [f"{where} lacks {name}" for name in shape.required_members if name not in value]
        for name, inner in value.items():
            known = shape.members.get(name)
            found += problems(known, inner, f"{where}.{name}") if known else [f"{where}.{name} is unknown"]
        return found
    if shape.type_name == "list":
        found = [p for i, v in enumerate(value) for p in problems(shape.member, v, f"{where}[{i}]")]
    if shape.type_name == "map":
        found = [
            p for k, v in value.items() for p in (*problems(shape.key, k, where), *problems(shape.value, v, where))
        ]
    size = value if shape.type_name in ("integer", "long") else len(value)
    rules = shape.metadata
    if size < rules.get("min", size) or size > rules.get("max", size):
        found.append(f"{where} is of size {size}, allowed are {rules.get('min')} to {rules.get('max')}")
    if shape.type_name == "string":
        if shape.enum and value not in shape.enum:
            found.append(f"{where} is {value!r}, which is not in the enumeration")
        if rules.get("pattern") and not re.fullmatch(_python(rules["pattern"]), value):
            found.append(f"{where} is {value!r}, which is not like {rules['pattern']}")
    return found


def _python(pattern: str) -> str:
    """Java's classes of letters, spaces and digits, for ASCII."""
    return pattern.replace(r"\p{L}", "a-zA-Z").replace(r"\p{Z}", " ").replace(r"\p{N}", "0-9")


@pytest.fixture(scope="module")
def create_training_job() -> Any:
    """The input of CreateTrainingJob in the service model that botocore carries."""
    return (
        botocore.session.get_session().get_service_model("sagemaker").operation_model("CreateTrainingJob").input_shape
    )


@pytest.mark.parametrize("num_classes", [2, 400])
def test_the_request_to_sagemaker_satisfies_its_service_model_however_long_the_spec(
    create_training_job: Any, num_classes: int
) -> None:
    spec = {**SPEC, "split": {"snapshot": {"classes": [f"class-{i}" for i in range(num_classes)]}}}
    request = training_request(job(spec=spec), SETTINGS, try_number=2)
    assert problems(create_training_job, request) == []
    assert botocore.validate.ParamValidator().validate(request, create_training_job).has_errors() is False
    pieces = [v for k, v in request["HyperParameters"].items() if k.startswith("spec_")]
    assert json.loads("".join(pieces)) == spec
    assert "canary" not in json.dumps(request)


def test_the_check_against_the_service_model_finds_what_is_wrong(create_training_job: Any) -> None:
    request = training_request(job(), SETTINGS, try_number=1)
    broken = {**request, "TrainingJobName": "under_score", "HyperParameters": {"spec": "x" * 2501}, "Colour": 1}
    del broken["RoleArn"]
    found = " ".join(problems(create_training_job, broken))
    for word in ("lacks RoleArn", "Colour is unknown", "under_score", "size 2501"):
        assert word in found


def test_sagemaker_is_refused_before_anything_is_asked_where_it_cannot_work() -> None:
    with pytest.raises(InputError, match="TIRE_SAGEMAKER_ROLE_ARN"):
        training_request(job(), Settings(_env_file=None), try_number=1)
    own_s3 = SETTINGS.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:19000"})
    with pytest.raises(InputError, match="AWS' own S3"):
        training_request(job(), own_s3, try_number=1)


def test_a_job_that_still_trains_is_waited_for_and_no_second_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    running = [{"TrainingJobName": f"{job().name}-1"}]
    asked: list[dict[str, Any]] = []

    def list_training_jobs(**wanted: Any) -> list[dict[str, Any]]:
        asked.append(wanted)
        return running

    monkeypatch.setattr(SageMakerTrainOperator, "hook", SimpleNamespace(list_training_jobs=list_training_jobs))
    monkeypatch.setattr("tire_airflow.trainers.sagemaker_trainer.load_settings", lambda: SETTINGS)
    with pytest.raises(TaskDeferred) as deferred:
        SageMakerTrainOperator(task_id="train", spec=SPEC).execute({"ti": TI})
    assert asked == [{"name_contains": job().name, "StatusEquals": "InProgress"}]
    assert running[0]["TrainingJobName"] in str(deferred.value.trigger.serialize())


# Kubernetes


def strictly(value: Any, kind: str, where: str = "pod") -> None:
    """Hold a JSON value against the types of Kubernetes' OpenAPI document, which the client's models carry."""
    if kind.startswith("list["):
        for i, inner in enumerate(value):
            strictly(inner, kind[5:-1], f"{where}[{i}]")
    elif kind.startswith("dict["):
        for key, inner in value.items():
            assert isinstance(key, str), where
            strictly(inner, kind[5:-1].split(", ")[1], f"{where}.{key}")
    elif kind in ("str", "int", "bool", "float"):
        assert type(value).__name__ == kind, f"{where} is {value!r}, but must be {kind}"
    else:
        model = getattr(k8s, kind)
        names = {json_name: name for name, json_name in model.attribute_map.items()}
        assert set(value) <= set(names), f"{where}: {set(value) - set(names)} are unknown"
        for key, inner in value.items():
            strictly(inner, model.openapi_types[names[key]], f"{where}.{key}")
        model(**{names[key]: inner for key, inner in value.items()})  # lacks nothing that is required


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pod that the operator would have the cluster make, as JSON."""
    operator = KubernetesTrainOperator(task_id="train", spec=SPEC)
    hook = SimpleNamespace(
        get_namespace=lambda: "tire",
        get_xcom_sidecar_container_image=lambda: None,
        get_xcom_sidecar_container_resources=lambda: None,
        get_xcom_sidecar_container_security_context=lambda: None,
        is_in_cluster=False,
    )
    monkeypatch.setattr(KubernetesTrainOperator, "hook", hook)
    asked: list[Any] = []
    monkeypatch.setattr(operator, "invoke_defer_method", lambda **_: None)

    def get_or_create_pod(*, pod_request_obj: Any, context: Any) -> Any:
        asked.append(pod_request_obj)
        return pod_request_obj

    monkeypatch.setattr(operator, "get_or_create_pod", get_or_create_pod)
    monkeypatch.setattr("tire_airflow.trainers.kubernetes_trainer.load_settings", lambda: SETTINGS)
    operator.execute({"ti": TI, "run_id": TI.run_id, "dag": SimpleNamespace(parent_dag=None)})
    return ApiClient().sanitize_for_serialization(asked[0])


def test_the_pod_satisfies_kubernetes_schema_and_holds_no_secret(pod: Any) -> None:
    strictly(pod, "V1Pod")
    assert "canary" not in json.dumps(pod)
    trainer = pod["spec"]["containers"][0]
    assert trainer["envFrom"] == [{"secretRef": {"name": "tire-s3"}}]
    assert trainer["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "1"}
    assert trainer["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert trainer["securityContext"]["readOnlyRootFilesystem"] is True
    assert json.loads(trainer["args"][trainer["args"].index("--spec") + 1]) == SPEC


def test_the_check_against_kubernetes_schema_finds_what_is_wrong(pod: Any) -> None:
    for broken in ({"colour": 1}, {"activeDeadlineSeconds": "8"}, {"containers": [{"image": "no name"}]}):
        with pytest.raises((AssertionError, ValueError)):
            strictly({**pod, "spec": {**pod["spec"], **broken}}, "V1Pod")


def test_a_pods_exit_code_and_last_words_are_its_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = k8s.V1ContainerStateTerminated(exit_code=2, message="epoch 1\nerror learning_rate is -1")
    status = k8s.V1ContainerStatus(
        name="base", image="i", image_id="i", ready=False, restart_count=0, state=k8s.V1ContainerState(terminated=ended)
    )
    assert exit_of(k8s.V1Pod(status=k8s.V1PodStatus(container_statuses=[status])), "base") == (2, ended.message)
    assert exit_of(None, "base") == (0, "")


# How it ends, and what is said until then


class Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_a_chatty_trainer_neither_floods_the_log_nor_loses_its_last_words() -> None:
    log, said, now = logging.Logger("task"), Said(), [0.0]
    log.addHandler(said)
    relay = outcome.Relay(log, clock=lambda: now[0])
    for i in range(100_000):
        now[0] += 0.001
        relay(f"line {i}")
    relay.close()
    assert len(relay.last) == 20
    assert relay.last[-1] == "line 99999"
    assert 600 < len([line for line in said.lines if line.startswith("line ")]) < 800  # 200, then 5 a second
    left_out = sum(int(line.split()[1]) for line in said.lines if "left out" in line)
    assert left_out + len([line for line in said.lines if line.startswith("line ")]) == 100_000


def test_lines_are_whole_however_the_stream_is_cut_and_an_endless_one_is_not_held() -> None:
    text = "one\ntwo \u2026 dots\nprogress 1\rprogress 2\r\nlast".encode()
    for size in (1, 3, 1000):
        chunks = [text[i : i + size] for i in range(0, len(text), size)]
        lines = list(outcome.whole_lines(chunks))
        assert lines == ["one", "two \u2026 dots", "progress 1", "progress 2", "last"]
    longest = max(len(line) for line in outcome.whole_lines(b"x" * 4096 for _ in range(1000)))
    assert longest <= outcome.LINE_MAX_BYTES + 4096


@pytest.mark.parametrize(("code", "raised"), [(1, AirflowFailException), (2, AirflowFailException)])
def test_what_repeats_in_vain_is_not_retried(code: int, raised: type[Exception], monkeypatch: Any) -> None:
    kept: list[str] = []
    monkeypatch.setattr(outcome, "keep_reason", kept.append)
    with pytest.raises(raised, match="learning_rate"):
        outcome.raise_for(code, ["epoch 1", "error learning_rate is -1"])
    assert kept == ["learning_rate is -1"]


@pytest.mark.parametrize("code", [3, 4, -9, 137, 143])
def test_what_may_pass_by_itself_is_retried(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "keep_reason", lambda _: None)
    with pytest.raises(AirflowException) as raised:
        outcome.raise_for(code, [])
    assert not isinstance(raised.value, AirflowFailException)


def test_a_trainer_process_that_refuses_its_spec_fails_the_task_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(outcome, "keep_reason", lambda _: None)
    monkeypatch.setenv("TIRE_HOME", str(tmp_path))
    spec = {"candidate": "cnn", "split": {}, "config": {"model_type": "cnn", "learning_rate": -1}}
    operator = ProcessTrainOperator(task_id="train", spec=spec)
    with pytest.raises(AirflowFailException, match="learning_rate is -1"):
        operator.execute({"ti": TI})


PARENT = """
import sys
from tire_airflow.trainers.process_trainer import ProcessTrainOperator
operator = ProcessTrainOperator(task_id="train", spec={})
operator._run([sys.executable, "-c", "import time; time.sleep(60)"], {})
"""


def test_kill_9_of_the_task_leaves_no_trainer_behind() -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    task = subprocess.Popen([sys.executable, "-c", PARENT], env=env, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (children := psutil.Process(task.pid).children()) and time.monotonic() < deadline:
            time.sleep(0.05)
        (trainer,) = children
        os.kill(task.pid, signal.SIGKILL)
        task.wait()
        _, alive = psutil.wait_procs([trainer], timeout=10)
        assert alive == []
    finally:
        if task.poll() is None:
            task.kill()
