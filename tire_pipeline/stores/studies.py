"""Searches in PostgreSQL, in a schema of their own beside the ledger's: Optuna's tables, by Optuna's migrations.

Any number of processes, on any host, may work on one study; one that dies is noticed by its heartbeat.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import OperationalError

from tire_pipeline.errors import InputError, ServiceUnavailable

SCHEMA = "tire_studies"
HEARTBEAT_S = 10
GRACE_S = 30


def connect(url: str) -> RDBStorage:
    """The studies behind the ledger's address; the schema is made if it is missing. A trial whose process died is
    tried again with its very values."""
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7410982356)"))  # two processes may be first
            connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
        engine.dispose()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(
                url,
                engine_kwargs={"connect_args": {"options": f"-csearch_path={SCHEMA}"}, "pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                heartbeat_stale_trial_callback=try_again,
            )
    except OperationalError as error:
        first_line = str(error.orig).strip().splitlines()[0]
        raise ServiceUnavailable(f"PostgreSQL did not answer: {first_line}. TIRE_LEDGER_URL is the address.") from error


def try_again(study: optuna.Study, trial: FrozenTrial | optuna.Trial) -> None:
    """Let whoever works on the study next take a trial's very values again, in the place of that trial."""
    waiting = create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={"instead_of": trial.number},
    )
    study.add_trial(waiting)


def try_the_dead_again(study: optuna.Study) -> None:
    """Notice trials whose process no longer gives a sign of life."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)


def count(study: optuna.Study, *states: str) -> int:
    """How many trials are in one of the states (RUNNING, COMPLETE, PRUNED, FAIL), once for those tried again."""
    trials = study.get_trials(deepcopy=False)
    replaced = {t.user_attrs.get("instead_of") for t in trials}
    return sum(t.state.name in states and t.number not in replaced for t in trials)


def open_study(storage: Any, name: str, *, maximise: bool, seed: int) -> optuna.Study:
    """The study of this name, made if there is none. Trials in the worse half of their epoch are given up."""
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize" if maximise else "minimize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
    )


def load_study(storage: Any, name: str, *, seed: int) -> optuna.Study:
    """The study of this name. InputError when there is none."""
    try:
        summary = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        raise InputError(f"There is no study {name!r}. `tire tune --space FILE` starts one.") from None
    return open_study(storage, name, maximise=summary.direction.name == "MAXIMIZE", seed=seed)
