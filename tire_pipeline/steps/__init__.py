"""The steps of the pipeline: the only door for DAGs and the command line.

Each takes and returns small records (`refs`), may be repeated at any time, and loads what it needs when it is called.
"""

from __future__ import annotations

from tire_pipeline.steps.approval import answer_left, evidence, reject
from tire_pipeline.steps.candidates import train, training_specs
from tire_pipeline.steps.containers import newest_try, reap
from tire_pipeline.steps.cross_validation import cross_validate
from tire_pipeline.steps.data import (
    list_versions,
    plan_scan,
    pull_version,
    push,
    scan,
    show_version,
    split,
    validate,
    verify_version,
)
from tire_pipeline.steps.data_report import report_url
from tire_pipeline.steps.evaluation import evaluate, evaluate_run
from tire_pipeline.steps.overview import data_report, model_card, overview_page
from tire_pipeline.steps.prediction import predict, predict_csv
from tire_pipeline.steps.production import feedback, monitor
from tire_pipeline.steps.promotion import (
    note_run,
    produce,
    production_info,
    promotions,
    register,
    report,
    rollback,
    stage,
    staged,
)
from tire_pipeline.steps.quantization import quantize
from tire_pipeline.steps.request import RunRequest, check_request
from tire_pipeline.steps.sagemaker import SAGEMAKER_OUTPUT, read_channels, sagemaker_result, sagemaker_train
from tire_pipeline.steps.serving import check_serving, export
from tire_pipeline.steps.tuning import read_space, tune, work_on

__all__ = [
    "SAGEMAKER_OUTPUT",
    "RunRequest",
    "answer_left",
    "check_request",
    "check_serving",
    "cross_validate",
    "data_report",
    "evaluate",
    "evaluate_run",
    "evidence",
    "export",
    "feedback",
    "list_versions",
    "model_card",
    "monitor",
    "newest_try",
    "note_run",
    "overview_page",
    "plan_scan",
    "predict",
    "predict_csv",
    "produce",
    "production_info",
    "promotions",
    "pull_version",
    "push",
    "quantize",
    "read_channels",
    "read_space",
    "reap",
    "register",
    "reject",
    "report",
    "report_url",
    "rollback",
    "sagemaker_result",
    "sagemaker_train",
    "scan",
    "show_version",
    "split",
    "stage",
    "staged",
    "train",
    "training_specs",
    "tune",
    "validate",
    "verify_version",
    "work_on",
]
