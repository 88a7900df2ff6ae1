"""Commands on candidates: train, evaluate, predict."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tire_pipeline import steps
from tire_pipeline.cli.fields import with_fields
from tire_pipeline.cli.output import Json, progress, result, tell
from tire_pipeline.errors import InputError, TireError
from tire_pipeline.refs import CrossValidationRef, EvaluationRef, SnapshotRef, TrainedRef
from tire_pipeline.steps.request import RunRequest
from tire_pipeline.training.config_file import read_table  # light: no torch behind it

SAGEMAKER_CONFIG = Path("/opt/ml/input/config/hyperparameters.json")
SAGEMAKER_FAILURE = Path("/opt/ml/output/failure")


def add_to(app: typer.Typer) -> None:
    app.command()(train)
    app.command(hidden=True)(sagemaker_train)
    app.command()(evaluate)
    app.command()(export)
    app.command()(quantize)
    app.command()(predict)


@with_fields
def train(
    *,
    dataset_version: Annotated[str, typer.Option(help="The dataset version to train from.")] = "",
    model_type: Annotated[
        str, typer.Option(help="The candidate: cnn (default), tiny_vgg, resnet18, …, timm:NAME.")
    ] = "",
    seed: Annotated[int | None, typer.Option(help="Of split, weights and order.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML or JSON with any of these options, in place of the recipe's values.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint, if there is one.")
    ] = False,
    spec: Annotated[
        str, typer.Option(help="Instead of all the others: a JSON spec or its file, as a DAG gives it; always resumes.")
    ] = "",
    result_path: Annotated[Path | None, typer.Option("--result", help="Write the result as JSON here as well.")] = None,
    as_json: Json = False,
    overrides: dict[str, Any],
) -> None:
    """Train one candidate here, or take it from the cache.

    What is left out is as in the file of `--config`, and otherwise as in the candidate's recipe.

    Examples: `tire train --dataset-version demo-v1 --model-type cnn --optimizer-type adam --epochs 10`,
    `tire train --dataset-version demo-v1 --cost-miss 20 --cost-alarm 1 --min-recall 0.98`
    """
    if not (dataset_version or spec) and SAGEMAKER_CONFIG.is_file():  # SageMaker starts an image with `train` alone
        sagemaker_train()
        return
    flags = {"dataset_version": dataset_version, "model_type": model_type, "seed": seed, **overrides}
    record = _read_spec(spec) if spec else _make_spec(_filled(config, flags))
    with progress("training") as move:
        trained = steps.train(record, resume=resume or bool(spec), tags=_tags(), progress=move)
    if not trained.run_id:  # torchrun started this process to help another one, which has the result
        return
    if result_path is not None:
        result_path.write_text(json.dumps(asdict(trained)))
    how = "from the cache" if trained.cached else f"in {trained.seconds:.0f} s"
    result(trained, as_json=as_json, text=f"{trained.candidate}: trained {how}, MLflow run {trained.run_id}")


def sagemaker_train() -> None:
    """Train as SageMaker's container contract says: see `steps.sagemaker`. What `tire train` does in its containers."""
    try:
        with progress("training") as move:
            outcome = steps.sagemaker_train(steps.read_channels(os.environ), progress=move)
    except TireError as error:
        if SAGEMAKER_FAILURE.parent.is_dir():
            SAGEMAKER_FAILURE.write_text(str(error)[:1024])  # what the job's page shows
        raise
    result(outcome, as_json=True)


@with_fields
def evaluate(
    run: Annotated[str, typer.Argument(help="MLflow run id of a training.", show_default=False)] = "",
    *,
    metric: Annotated[str, typer.Option(help="The metric that decides.")] = "balanced_accuracy",
    threshold: Annotated[float, typer.Option(help="What the metric must reach.")] = 0.75,
    cv: Annotated[str, typer.Option(help="Instead of a run: kfold, or logo, which leaves out a group at a time.")] = "",
    dataset_version: Annotated[str, typer.Option(help="With --cv: the dataset version.")] = "",
    model_type: Annotated[str, typer.Option(help="With --cv: the candidate (cnn unless the file says).")] = "",
    folds: Annotated[int, typer.Option(help="With --cv kfold: how many.")] = 5,
    seed: Annotated[int | None, typer.Option(help="With --cv: of folds, weights and order.")] = None,
    config: Annotated[Path | None, typer.Option(help="With --cv: TOML or JSON as of `tire train`.")] = None,
    robust: Annotated[bool, typer.Option("--robust", help="Also under blur, dark, noise, JPEG and a turn.")] = False,
    as_json: Json = False,
    overrides: dict[str, Any],
) -> None:
    """Measure a trained candidate on its locked test split, or a kind of candidate by cross-validation.

    Exit code 1 when it is below the threshold. The options for training are those of a cross-validation.

    Examples: `tire evaluate 4f0c… --threshold 0.8`, `tire evaluate --dataset-version v1 --model-type cnn --cv logo`
    """
    if bool(run) == bool(cv):
        raise InputError("Give the MLflow run id of a training, or --cv kfold|logo with --dataset-version.")
    if cv:
        flags = {"dataset_version": dataset_version, "model_type": model_type, "seed": seed, **overrides}
        request = _request({**_filled(config, flags), "metric": metric, "threshold": threshold})
        measured = _cross_validate(request, cv, folds)
        result(measured, as_json=as_json, text=_cross_validated(measured))
        passed, reason = measured.passed, measured.reason
    else:
        evaluation = steps.evaluate_run(run, metric=metric, threshold=threshold, robust=robust)
        result(evaluation, as_json=as_json, text=_evaluated(evaluation))
        passed, reason = evaluation.passed, evaluation.reason
    if not passed:
        tell(f"below the threshold: {reason}")
        raise typer.Exit(1)


def export(
    run: Annotated[str, typer.Argument(help="MLflow run id of a training.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet.", show_default=False)],
    form: Annotated[
        str, typer.Option("--format", help="onnx, or int8 for servers without much of a processor.")
    ] = "onnx",
    metric: Annotated[str, typer.Option(help="With int8: the metric that decides.")] = "balanced_accuracy",
    threshold: Annotated[float, typer.Option(help="With int8: what all of the metric's interval must reach.")] = 0.75,
    as_json: Json = False,
) -> None:
    """Write a trained candidate's bundle into a folder; `tire predict --bundle` and `tire serve --bundle` take it.

    An INT8 model is written only if its own evaluation passes the gate; else the exit code is 1.

    Example: `tire export 4f0c… bundle-int8 --format int8`
    """
    written = steps.export(run, out, form=form, metric=metric, threshold=threshold)
    result(written, as_json=as_json, text=f"{out}: {form}, bundle {written['digest'][:12]}")


def quantize(
    run: Annotated[str, typer.Argument(help="MLflow run id of a training.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Make the INT8 form of a trained candidate a candidate of its own, with its own MLflow run.

    It is evaluated, registered, staged, checked in the server and produced as any other, by its own figures.

    Example: `tire quantize 4f0c…`, then `tire register RUN` with the run that it names
    """
    made = steps.quantize(run)
    result(made, as_json=as_json, text=f"{made.candidate}: MLflow run {made.run_id}, bundle {made.bundle_digest[:12]}")


def predict(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Images, or folders of images.", show_default=False)
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="A bundle folder; default: the model in production.")] = None,
    csv: Annotated[Path | None, typer.Option(help="A CSV that names the images, instead of PATHS.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the answers to this CSV; needed with --csv.")] = None,
    path_column: Annotated[str, typer.Option(help="With --csv: the column of the paths.")] = "path",
    label_column: Annotated[
        str, typer.Option(help="With --csv: the column of the classes, where known; several with commas.")
    ] = "label",
    as_json: Json = False,
) -> None:
    """Classify images. One that cannot be read is reported and stops nothing.

    A CSV with classes gets true_class, predicted_class, probability and ms; one without gets its label column filled.

    Examples: `tire predict photos/ --json`, `tire predict --csv test.csv --out submission.csv`
    """
    if bool(paths) == bool(csv) or (csv and not out):
        raise InputError("Give images or folders, or --csv IN with --out OUT.csv.")
    if out is not None:
        with progress("images") as move:
            made = steps.predict_csv(
                out,
                paths=paths or (),
                listing=csv,
                path_column=path_column,
                label_column=label_column,
                bundle=bundle,
                progress=move,
            )
        result(made, as_json=as_json, text=_predicted(made))
        return
    begun = time.monotonic()
    with progress("images") as move:
        answers = steps.predict(paths or (), bundle=bundle, progress=move)
    seconds = time.monotonic() - begun
    tell(f"{len(answers)} images in {seconds:.1f} s, {len(answers) / seconds:.0f} a second")
    if as_json:
        result(answers, as_json=True)
        return
    for a in answers:
        said = a.get("error") or f"{a['decision']}, {a['label']} {a['probability']:.1%}"
        result(a, as_json=False, text=f"{a['path']}: {said}")


def _filled(config: Path | None, flags: dict[str, Any]) -> dict[str, Any]:
    """What the flags say, and what they leave out as in the file."""
    given = {name: value for name, value in flags.items() if value not in (None, "")}
    return {**(read_table(config) if config else {}), **given}


def _make_spec(form: dict[str, Any]) -> dict[str, Any]:
    """The spec of a form's one candidate; checked before any image is read."""
    request = _request(form)
    return steps.training_specs(steps.split(_validated(request), seed=request.seed), request)[0]


def _predicted(made: dict[str, Any]) -> str:
    known = f", accuracy {made['accuracy']:.4f}" if "accuracy" in made else ""
    failed = f", {made['num_errors']} could not be read" if made["num_errors"] else ""
    return (
        f"{made['out']}: {made['num_images']} images in {made['seconds']:.1f} s, {made['images_per_s']:.0f} a second"
        f"{known}{failed}"
    )


def _cross_validate(request: RunRequest, kind: str, k: int) -> CrossValidationRef:
    snapshot = _validated(request)
    with progress("folds") as move:
        return steps.cross_validate(snapshot, request, kind=kind, k=k, progress=move)


def _validated(request: RunRequest) -> SnapshotRef:
    with progress("reading") as move:
        return steps.validate(request.version, progress=move)


def _request(form: dict[str, Any]) -> RunRequest:
    """The request of a form with one candidate."""
    return steps.check_request({**form, "candidates": [form.get("model_type", "cnn")]})


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


def _evaluated(e: EvaluationRef) -> str:
    trained: TrainedRef = e.trained
    return f"{trained.candidate} on {e.num_test} test images, with 95 % intervals\n" + _figures(e.metrics)


def _cross_validated(c: CrossValidationRef) -> str:
    num_images = sum(f["num_images"] for f in c.folds)
    lines = [f"  fold {f['fold']:<15} {f['accuracy']:.4f}  of {f['num_images']} images" for f in c.folds]
    head = f"{c.candidate} on {num_images} images, each by a model that saw nothing of its fold; 95 % intervals"
    return "\n".join([head, _figures(c.metrics), "Accuracy of each fold", *lines, f"MLflow run {c.run_id}"])


def _figures(metrics: dict[str, float]) -> str:
    names = [n for n in metrics if not n.endswith(("_low", "_high"))]
    return "\n".join(
        f"  {n:<20} {metrics[n]:.4f}  [{metrics[n + '_low']:.4f}, {metrics[n + '_high']:.4f}]" for n in names
    )
