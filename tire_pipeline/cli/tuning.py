"""The command that searches for a candidate's best configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tire_pipeline import steps
from tire_pipeline.cli.output import Json, progress, result
from tire_pipeline.errors import InputError


def add_to(app: typer.Typer) -> None:
    app.command()(tune)


def tune(
    dataset_version: Annotated[str, typer.Option(help="The dataset version to train from.")] = "",
    space: Annotated[Path | None, typer.Option(help="The space to search, TOML or JSON.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="How many configurations the study shall have tried.")] = 20,
    parallel: Annotated[int, typer.Option(min=1, help="How many at a time, each in a process.")] = 1,
    study: Annotated[str, typer.Option(help="Its name; default: one that follows from space and data.")] = "",
    seed: Annotated[int, typer.Option(help="Of split, weights and proposals.")] = 0,
    join: Annotated[str, typer.Option(help="Instead of all the above: work on this study until it is done.")] = "",
    as_json: Json = False,
) -> None:
    """Search for the best configuration by the metric that its trials monitor, giving up what lags behind.

    The same command again goes on where it was stopped. Example: `tire tune --dataset-version v1 --space space.toml`,
    with a file such as

    model_type = "cnn" ⏎ [fixed] ⏎ epochs = 8 ⏎ monitor = "balanced_accuracy" ⏎ [space] ⏎
    learning_rate = { low = 1e-4, high = 1e-2, log = true } ⏎ batch_size = { choices = [8, 16, 32] }
    """
    if bool(join) == bool(space):
        raise InputError("Give the space to search with --space FILE, or a study to work on with --join.")
    if space is None:
        steps.work_on(join, seed=seed)
        return
    declared = steps.read_space(space)
    request = steps.check_request({"dataset_version": dataset_version, "candidates": [declared["model_type"]]})
    with progress("reading") as move:
        snapshot = steps.validate(request.version, progress=move)
    split = steps.split(snapshot, seed=seed)
    with progress("trials") as move:
        found = steps.tune(split, declared, trials=trials, parallel=parallel, study=study, seed=seed, progress=move)
    text = (
        f"study {found.study}: {found.num_complete} trials, {found.num_pruned} given up, {found.num_failed} failed\n"
        f"best {found.metric} {found.best_value:.4f}, MLflow run {found.best_run_id}, of\n"
        f"{json.dumps(found.best_config, indent=1)}"
    )
    result(found, as_json=as_json, text=text)
