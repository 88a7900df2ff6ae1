"""Commands on candidates: train, evaluate, predict."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tire_pipeline import steps
from tire_pipeline.cli.output import Json, progress, result, tell
from tire_pipeline.errors import InputError
from tire_pipeline.refs import EvaluationRef, TrainedRef


def add_to(app: typer.Typer) -> None:
    app.command()(train)
    app.command()(evaluate)
    app.command()(predict)


def train(
    dataset_version: Annotated[str, typer.Option(help="The dataset version to train from.")] = "",
    model_type: Annotated[str, typer.Option(help="The candidate: cnn, tiny_vgg, resnet18.")] = "cnn",
    optimizer_type: Annotated[str | None, typer.Option(help="adam, adamw or sgd.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest rate of the one-cycle schedule.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    loss: Annotated[str | None, typer.Option(help="cross_entropy or focal.")] = None,
    augmentation: Annotated[str | None, typer.Option(help="none or light.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Height and width in pixels.")] = None,
    seed: Annotated[int, typer.Option(help="Of split, weights and order.")] = 0,
    spec: Annotated[
        str, typer.Option(help="Instead of all the above: a JSON spec or its file, as a DAG gives it.")
    ] = "",
    result_path: Annotated[Path | None, typer.Option("--result", help="Write the result as JSON here as well.")] = None,
    as_json: Json = False,
) -> None:
    """Train one candidate here, or take it from the cache. What is left out follows the candidate's recipe.

    Example: `tire train --dataset-version demo-v1 --model-type cnn --optimizer-type adam --epochs 10`
    """
    overrides = {
        "optimizer_type": optimizer_type,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "loss": loss,
        "augmentation": augmentation,
        "image_height": image_size,
        "image_width": image_size,
    }
    record = _read_spec(spec) if spec else _make_spec(dataset_version, model_type, seed, overrides)
    with progress("training") as move:
        trained = steps.train(record, tags=_tags(), progress=move)
    if result_path is not None:
        result_path.write_text(json.dumps(asdict(trained)))
    how = "from the cache" if trained.cached else f"in {trained.seconds:.0f} s"
    result(trained, as_json=as_json, text=f"{trained.candidate}: trained {how}, MLflow run {trained.run_id}")


def evaluate(
    run: Annotated[str, typer.Argument(help="MLflow run id of a training.", show_default=False)],
    metric: Annotated[str, typer.Option(help="The metric that decides.")] = "balanced_accuracy",
    threshold: Annotated[float, typer.Option(help="What the metric must reach.")] = 0.75,
    as_json: Json = False,
) -> None:
    """Measure a trained candidate on its locked test split. Exit code 1 when it is below the threshold.

    Example: `tire evaluate 4f0c… --threshold 0.8`
    """
    evaluation = steps.evaluate_run(run, metric=metric, threshold=threshold)
    result(evaluation, as_json=as_json, text=_figures(evaluation))
    if not evaluation.passed:
        tell(f"below the threshold: {evaluation.reason}")
        raise typer.Exit(1)


def predict(
    paths: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", show_default=False)],
    bundle: Annotated[Path | None, typer.Option(help="A bundle folder; default: the model in production.")] = None,
    as_json: Json = False,
) -> None:
    """Classify images. One that cannot be read is reported and stops nothing.

    Example: `tire predict photos/ --json`
    """
    answers = steps.predict(paths, bundle=bundle)
    if as_json:
        result(answers, as_json=True)
        return
    for a in answers:
        said = a.get("error") or f"{a['decision']}, {a['label']} {a['probability']:.1%}"
        result(a, as_json=False, text=f"{a['path']}: {said}")


def _make_spec(version: str, model_type: str, seed: int, overrides: dict[str, Any]) -> dict[str, Any]:
    given = {k: v for k, v in overrides.items() if v is not None}
    form = {"dataset_version": version, "candidates": [model_type], "seed": seed, **given}
    request = steps.check_request(form)  # before any image is read
    with progress("reading") as move:
        snapshot = steps.validate(request.version, progress=move)
    return steps.training_specs(steps.split(snapshot, seed=seed), request)[0]


def _read_spec(spec: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(spec if spec.lstrip().startswith("{") else Path(spec).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"The spec {spec[:80]!r} cannot be read: {error}.") from None
    if missing := {"candidate", "split", "config"} - set(record):
        raise InputError(
            f"The spec {spec[:80]!r} lacks {', '.join(sorted(missing))}. `steps.training_specs` makes one."
        )
    return record


def _tags() -> dict[str, str]:
    """Tags for the MLflow run that whoever started this process wants: `TIRE_RUN_TAGS`, a JSON object."""
    tags: dict[str, str] = json.loads(os.environ.get("TIRE_RUN_TAGS", "{}"))
    return tags


def _figures(e: EvaluationRef) -> str:
    names = [n for n in e.metrics if not n.endswith(("_low", "_high"))]
    lines = [
        f"  {n:<20} {e.metrics[n]:.4f}  [{e.metrics[n + '_low']:.4f}, {e.metrics[n + '_high']:.4f}]" for n in names
    ]
    trained: TrainedRef = e.trained
    return "\n".join([f"{trained.candidate} on {e.num_test} test images, with 95 % intervals", *lines])
