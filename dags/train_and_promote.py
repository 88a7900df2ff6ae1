"""### train_and_promote
Turns one dataset version into a model in production, or says why not.

`plan_scan` → `scan` (in pieces, of large versions alone) → `validate` → `split` → `train` and `evaluate` for each
candidate → `register` → `stage` → `check_serving` → `approve` → `produce` → `report`

**Started** by `dataset_watch` for each new version, or by hand: *Trigger* asks for the version and the options.

**Reading a run**: its note says what was decided and why; so does Slack. A *skipped* task after `register` means that
a gate said no; the reason is in the note and in the log of the task that was skipped first. A *failed* `validate` names
what is wrong with the data and the fix; its button and the note link the report that shows it in pictures.

**Repeating** is always safe: finished trainings come from the cache, a version is registered once, a promotion is
made once. *Clear* the failed task.

**Undoing** a promotion: `tire rollback`.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, TriggerRule, get_current_context, task_group
from airflow.sdk.exceptions import AirflowFailException
from tire_airflow.approval import ApproveIfAsked
from tire_airflow.form import trigger_form
from tire_airflow.links import VERSION, DataReportLink, linked
from tire_airflow.runs import failures, returned, stops_the_run
from tire_airflow.tasks import step
from tire_airflow.trainers import train_operator
from tire_airflow.trainers.job import labels

from tire_pipeline import steps
from tire_pipeline.refs import EvaluationRef, ModelRef, ScanShard, SnapshotRef, SplitRef, TrainedRef

with DAG(
    dag_id="train_and_promote",
    schedule=None,
    max_active_runs=1,
    catchup=False,
    params=trigger_form(),
    doc_md=__doc__,
    tags=["tire", "training"],
    default_args={"retries": 3, "retry_delay": timedelta(seconds=10)},
):

    @step
    def plan_scan(params: dict[str, Any]) -> list[dict[str, Any]]:
        return [asdict(shard) for shard in steps.plan_scan(steps.check_request(params).version)]

    @step(pool="train", map_index_template="{{ part }}")
    def scan(shard: dict[str, Any]) -> None:
        get_current_context()["part"] = shard["part"][:12]  # names the mapped task instance
        steps.scan(ScanShard(**shard))

    @step(trigger_rule=TriggerRule.NONE_FAILED)  # a small version has nothing to scan before
    def validate(params: dict[str, Any], ti: Any) -> dict[str, Any]:
        request = steps.check_request(params)
        ti.xcom_push(key=VERSION, value=request.version)
        return asdict(steps.validate(request.version, max_bad=request.max_bad, max_probe=request.max_probe))

    @step
    def split(snapshot: dict[str, Any], params: dict[str, Any]) -> list[dict[str, Any]]:
        request = steps.check_request(params)
        return steps.training_specs(steps.split(SnapshotRef(**snapshot), seed=request.seed), request)

    @step(map_index_template="{{ candidate }}")
    def evaluate(trained: dict[str, Any], spec: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        get_current_context()["candidate"] = spec["candidate"]  # names the mapped task instance
        request = steps.check_request(params)
        evaluation = steps.evaluate(
            TrainedRef(**trained),
            SplitRef.from_dict(spec["split"]),
            metric=request.metric,
            threshold=request.threshold,
            robust=request.robust,
        )
        return asdict(evaluation)

    @task_group(prefix_group_id=False)
    def candidate(spec: dict[str, Any]) -> Any:
        train = train_operator()(task_id="train", spec=spec, map_index_template="{{ task.spec['candidate'] }}")
        return evaluate(train.output, spec)

    @step(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
    def register(ti: Any, run_id: str) -> list[dict[str, Any]]:
        evaluations = [EvaluationRef.from_dict(e) for e in returned(ti, "evaluate")]
        models = steps.register(evaluations, run_key=run_id)
        return [asdict(model) for model in models]

    @step
    def stage(registered: list[dict[str, Any]], params: dict[str, Any], run_id: str) -> dict[str, Any]:
        request = steps.check_request(params)
        digest = registered[0]["snapshot_digest"]
        model = steps.stage(request.metric, snapshot_digest=digest, target=request.target, run_key=run_id)
        return asdict(model)

    @step
    def check_serving(model: dict[str, Any], ti: Any) -> dict[str, float]:
        return steps.check_serving(ModelRef(**model), task=labels(ti))

    @step
    def produce(model: dict[str, Any], params: dict[str, Any], run_id: str) -> dict[str, Any]:
        request = steps.check_request(params)
        made = steps.produce(
            request.metric,
            threshold=request.threshold,
            limits=dict(request.gate),
            model=ModelRef(**model),
            target=request.target,
            run_key=run_id,
        )
        return asdict(made)

    @step(trigger_rule=TriggerRule.ALL_DONE)
    def report(ti: Any, params: dict[str, Any], run_id: str) -> str:
        evaluations = [EvaluationRef.from_dict(e) for e in returned(ti, "evaluate")]
        failed = failures(ti)
        text = steps.report(version=params["dataset_version"], run_key=run_id, evaluations=evaluations, failures=failed)
        steps.note_run(ti.dag_id, run_id, text)
        if stops_the_run(failed, num_evaluated=len(evaluations)):
            raise AirflowFailException(text)
        return text

    validated = linked(validate(), DataReportLink())
    scan.expand(shard=plan_scan()) >> validated
    candidates = candidate.expand(spec=split(validated))
    registered = register()
    staged = stage(registered)
    checked = check_serving(staged)
    approve = ApproveIfAsked(
        task_id="approve",
        subject="Put {{ ti.xcom_pull('stage')['candidate'] }}, version "
        "{{ ti.xcom_pull('stage')['version'] }}, into production?",
    )
    produced, reported = produce(staged), report()
    candidates >> registered
    checked >> approve >> produced >> reported
    candidates >> reported
