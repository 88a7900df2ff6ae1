"""The step that searches for a candidate's best configuration.

A study lies in PostgreSQL, with the space and the split it is about: whoever names it can work on it, from any process
on any host, and it goes on where it was left. Each trial is a training like any other: in MLflow below the search's
run, in the cache, and resumed from its checkpoints when it was interrupted.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tire_pipeline.errors import InputError, Interrupted, ServiceUnavailable, TireError
from tire_pipeline.refs import SearchRef, SplitRef, digest_of
from tire_pipeline.steps.candidates import train
from tire_pipeline.steps.data import Progress
from tire_pipeline.steps.live import live

if TYPE_CHECKING:
    import optuna

    from tire_pipeline.training.config import TrainingConfig
    from tire_pipeline.wiring import Services

log = logging.getLogger(__name__)

POLL_S = 0.5
STOP_S = 10.0


class _Failed(Exception):
    """A trial whose configuration cannot be used or trained; the search goes on."""


def tune(
    split_ref: SplitRef,
    space: Mapping[str, Any],
    *,
    trials: int,
    parallel: int = 1,
    study: str = "",
    seed: int = 0,
    progress: Progress | None = None,
    services: Services | None = None,
) -> SearchRef:
    """Search until the study has this many trials, `parallel` at a time, by the metric that the space's trials monitor.

    `space` is as `training.search.parse_space` takes it. Without a name the study has one that follows from space and
    split, so that the same command goes on with it. InputError where a study of the name is about something else.
    """
    from tire_pipeline.metrics import better
    from tire_pipeline.stores.studies import open_study
    from tire_pipeline.training.config import TrainingConfig
    from tire_pipeline.training.search import parse_space

    s, parsed = live(services), parse_space({**space, "fixed": {"seed": seed, **space.get("fixed", {})}})
    about = {"space": parsed.as_dict(), "split": asdict(split_ref), "project": s.settings.project}
    metric = TrainingConfig.of(parsed.model_type, **parsed.fixed).monitor
    name = study or f"{parsed.model_type}-{digest_of(about)[:8]}"
    opened = open_study(s.studies, name, maximise=better(metric, 1, 0), seed=seed)
    if opened.user_attrs.get("about", about) != about:
        raise InputError(f"The study {name!r} is about another space or split. Choose another name with --study.")
    if "about" not in opened.user_attrs:
        tags = {"tire.study": name, "tire.split": split_ref.digest, "tire.version": split_ref.snapshot.version}
        run_id = s.tracking.start_run(f"search {name}", params={"metric": metric, "seed": seed}, tags=tags)
        opened.set_user_attr("about", about)
        opened.set_user_attr("run_id", run_id)
    opened.set_user_attr("trials", trials)
    if parallel == 1:
        work_on(name, seed=seed, progress=progress, services=s)
    else:
        _work_in_processes(name, parallel, seed)
    return _result(s, opened, metric)


def read_space(path: Path) -> dict[str, Any]:
    """A space out of a TOML or JSON file, checked. InputError says what is wrong with it."""
    from tire_pipeline.training.config_file import read_table
    from tire_pipeline.training.search import parse_space

    return parse_space(read_table(path)).as_dict()


def work_on(study: str, *, seed: int = 0, progress: Progress | None = None, services: Services | None = None) -> None:
    """Try configurations of a study, one after another, until it has the trials it shall have.

    A configuration that cannot be used or trained counts as a failed trial. A trial whose process died is tried again.
    """
    import optuna

    from tire_pipeline.stores.studies import count, load_study, try_again, try_the_dead_again
    from tire_pipeline.training.interruption import GivenUp
    from tire_pipeline.training.search import parse_space

    s = live(services)
    opened = load_study(s.studies, study, seed=seed)
    about, wanted = opened.user_attrs["about"], int(opened.user_attrs["trials"])
    space, split_ref = parse_space(about["space"]), SplitRef.from_dict(about["split"])

    def attempt(trial: optuna.Trial) -> float:
        try:
            return _try(s, trial, space.config(trial), split_ref, opened.user_attrs["run_id"])
        except GivenUp:
            raise optuna.TrialPruned from None
        except (Interrupted, ServiceUnavailable):
            try_again(opened, trial)  # whoever goes on does, from its checkpoint
            raise
        except TireError as error:
            log.warning("trial %d failed: %s", trial.number, error)
            raise _Failed from error

    while (ended := count(opened, "COMPLETE", "PRUNED", "FAIL")) < wanted:
        if progress:
            progress(ended, wanted)
        if ended + count(opened, "RUNNING") < wanted:
            opened.optimize(attempt, n_trials=1, catch=(_Failed,))
        else:
            time.sleep(POLL_S)
            try_the_dead_again(opened)


def _try(s: Services, trial: optuna.Trial, config: TrainingConfig, split_ref: SplitRef, parent: str) -> float:
    """Train one configuration; the monitored metric of its best epoch."""
    from tire_pipeline.training.interruption import GivenUp
    from tire_pipeline.training.state import kept_metrics, metric_name

    name = metric_name(config.monitor)

    def judge(epoch: int, metrics: Mapping[str, float]) -> None:
        trial.report(metrics[name], epoch)
        if trial.should_prune():
            raise GivenUp(f"Trial {trial.number} was given up in epoch {epoch + 1}: others were better by then.")

    spec = {"candidate": config.model_type, "split": asdict(split_ref), "config": config.as_dict()}
    tags = {"mlflow.parentRunId": parent, "tire.trial": str(trial.number)}
    trained = train(spec, resume=True, tags=tags, on_epoch=judge, services=s)
    trial.set_user_attr("run_id", trained.run_id)
    trial.set_user_attr("config", config.as_dict())
    (kept,) = kept_metrics({name: 0.0})
    return s.tracking.metrics(trained.run_id)[kept]


def _work_in_processes(study: str, parallel: int, seed: int) -> None:
    """`tire tune --join STUDY` in processes with an equal share of the cores; a signal to stop is passed on to them."""
    from tire_pipeline.training.interruption import stop_requests

    threads = str(max(1, (os.cpu_count() or 1) // parallel))
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    verbose = ["--verbose"] if log.isEnabledFor(logging.INFO) else []
    command = [sys.executable, "-m", "tire_pipeline", *verbose, "tune", "--join", study, "--seed"]
    with stop_requests() as stop:
        processes = [subprocess.Popen([*command, str(seed + n)], env=environment) for n in range(parallel)]
        try:
            while any(p.poll() is None for p in processes) and not stop and not _broken(processes):
                time.sleep(POLL_S)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(STOP_S)
    if stop:
        raise Interrupted(f"{stop.signal_name} stopped the search. The same command goes on with study {study!r}.")
    if code := _broken(processes):
        raise TireError(f"A worker of study {study!r} ended with code {code}; what it said is above.")


def _broken(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """The code of a worker that ended with an error, or 0. One that was killed is none: the others take its trial."""
    return next((p.returncode for p in processes if p.returncode and p.returncode > 0), 0)


def _result(s: Services, study: optuna.Study, metric: str) -> SearchRef:
    from tire_pipeline.stores.studies import count

    num_complete = count(study, "COMPLETE")
    if not num_complete:
        raise TireError(f"No trial of study {study.study_name!r} came to its end. Widen the space, or lower its rates.")
    run_id, best = study.user_attrs["run_id"], study.best_trial
    s.tracking.log_metrics(run_id, {f"best/{metric}": study.best_value, "num_complete": num_complete})
    s.tracking.set_tags(run_id, {"tire.best_run": best.user_attrs["run_id"]})
    s.tracking.end_run(run_id)
    return SearchRef(
        study=study.study_name,
        run_id=run_id,
        metric=metric,
        num_complete=num_complete,
        num_pruned=count(study, "PRUNED"),
        num_failed=count(study, "FAIL"),
        best_value=study.best_value,
        best_run_id=best.user_attrs["run_id"],
        best_config=best.user_attrs["config"],
    )
