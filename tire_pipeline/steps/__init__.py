"""The steps of the pipeline: the only door for DAGs and the command line.

Each takes and returns small records (`refs`), may be repeated at any time, and loads what it needs when it is called.
"""

from __future__ import annotations

from tire_pipeline.steps.candidates import evaluate, evaluate_run, train, training_specs
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
from tire_pipeline.steps.production import feedback, monitor, predict
from tire_pipeline.steps.promotion import (
    check_serving,
    note_run,
    produce,
    production_info,
    promotions,
    register,
    report,
    rollback,
    stage,
)
from tire_pipeline.steps.request import RunRequest, check_request
from tire_pipeline.steps.tuning import read_space, tune, work_on

__all__ = [
    "RunRequest",
    "check_request",
    "check_serving",
    "cross_validate",
    "evaluate",
    "evaluate_run",
    "feedback",
    "list_versions",
    "monitor",
    "note_run",
    "plan_scan",
    "predict",
    "produce",
    "production_info",
    "promotions",
    "pull_version",
    "push",
    "read_space",
    "register",
    "report",
    "rollback",
    "scan",
    "show_version",
    "split",
    "stage",
    "train",
    "training_specs",
    "tune",
    "validate",
    "verify_version",
    "work_on",
]
