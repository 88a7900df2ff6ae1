"""Commands on the registry: register, stage, check-serving, produce, production-info, rollback, promotions."""

from __future__ import annotations

import getpass
from typing import Annotated, Any

import typer

from tire_pipeline import steps
from tire_pipeline.cli.output import Json, result, table, tell

Metric = Annotated[str, typer.Argument(help="A metric by its MLflow name; Loss is log_loss.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    for command in (register, stage, produce, rollback, promotions):
        app.command()(command)
    app.command("check-serving")(check_serving)
    app.command("production-info")(production_info)


def register(
    run: Annotated[str, typer.Argument(help="MLflow run id of a training.", show_default=False)],
    metric: Annotated[str, typer.Option(help="The metric that decides.")] = "balanced_accuracy",
    threshold: Annotated[float, typer.Option(help="What the metric must reach.")] = 0.75,
    as_json: Json = False,
) -> None:
    """Evaluate a trained candidate and register it if it passes. Registering again gives the same version."""
    evaluation = steps.evaluate_run(run, metric=metric, threshold=threshold)
    (model,) = steps.register([evaluation], run_key="", actor=_me())
    result(model, as_json=as_json, text=f"{model.name} version {model.version}: {model.candidate}, {evaluation.reason}")


def stage(metric: Metric, as_json: Json = False) -> None:
    """Put the best registered version of the newest snapshot into staging.

    Example: `tire stage balanced_accuracy`
    """
    model = steps.stage(metric, actor=_me())
    text = f"staging: {model.name} version {model.version}, {model.candidate}, {model.metric} {model.value:.4f}"
    result(model, as_json=as_json, text=text)


def check_serving(as_json: Json = False) -> None:
    """Start the server with the staged version, and compare its answers with those of the other forms of the model.

    Exit code 1 when they differ, or it takes too much time or memory. The same is a task of `train_and_promote`.
    """
    figures = steps.check_serving(steps.staged())
    result(figures, as_json=as_json, text="\n".join(f"{name:<20} {value:.4g}" for name, value in figures.items()))


def produce(
    metric: Metric,
    threshold: Annotated[float | None, typer.Option(help="A bar that all of the metric's interval must reach.")] = None,
    min_recall: Annotated[float | None, typer.Option(help="The lowest recall of the positive class.")] = None,
    min_slice: Annotated[float | None, typer.Option(help="The lowest accuracy of a slice of 50 images; 0.5.")] = None,
    max_ece: Annotated[float | None, typer.Option(help="The highest calibration error; 0.15.")] = None,
    recall_margin: Annotated[float | None, typer.Option(help="Recall that may be lost to the champion; 0.02.")] = None,
    alpha: Annotated[float | None, typer.Option(help="How often chance alone may make it better; 0.05.")] = None,
    slice_images: Annotated[int | None, typer.Option(help="Images from which a slice is judged; 50.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Put the staged version into production if the gate lets it. Exit code 1 when it does not.

    Beside a champion it must cost less by its mistakes, beyond chance, and not lose recall, on the same test images.

    Example: `tire produce balanced_accuracy --threshold 0.8 --min-recall 0.98`
    """
    given = {"recall_min": min_recall, "slice_min": min_slice, "ece_max": max_ece, "recall_margin": recall_margin}
    given |= {"alpha": alpha, "slice_images_min": slice_images}
    limits = {name: value for name, value in given.items() if value is not None}
    made = steps.produce(metric, threshold=threshold, limits=limits, actor=_me())
    text = f"production: {made.model.name} version {made.model.version}, {made.model.candidate}: {made.reason}"
    result(made, as_json=as_json, text=text)


def production_info(as_json: Json = False) -> None:
    """Say which model is in production, since when, why, and how good it was."""
    info = steps.production_info()
    result(info, as_json=as_json, text=_info_text(info))


def rollback(
    to: Annotated[int | None, typer.Option(help="A version; default: the one that served before.")] = None,
    as_json: Json = False,
) -> None:
    """Put an earlier version back into production; the server follows within seconds."""
    before, after = steps.rollback(to=to, actor=_me())
    result({"from": before, "to": after}, as_json=as_json, text=f"production: version {before} → version {after}")


def promotions(
    limit: Annotated[int, typer.Option(help="The newest so many lines.", min=1)] = 200, as_json: Json = False
) -> None:
    """The model's history: who moved what, when and why."""
    rows = steps.promotions(limit=limit)
    if as_json:
        result(rows, as_json=True)
        return
    shown = [
        (f"{r['at']:%Y-%m-%d %H:%M}", r["action"], r["to_version"], r["actor"], r["reason"], r["evidence_digest"][:12])
        for r in rows
    ]
    table("", ["when", "what", "version", "who", "why", "evidence"], shown)
    if len(rows) == limit:
        tell(f"These are the newest {limit}; --limit shows more.")


def _info_text(info: dict[str, Any]) -> str:
    metrics = info["metrics"]
    names = sorted(n for n in metrics if not n.endswith(("_low", "_high")))
    lines = [
        f"{info['model']} version {info['version']}: {info['candidate']}",
        f"  trained on   {info['dataset_version']} (snapshot {str(info['snapshot'])[:12]})",
        f"  since        {info['since']}",
        f"  because      {info['reason']}",
        f"  MLflow run   {info['run']}",
        *(f"  {n:<24} {metrics[n]:.4f}" for n in names),
    ]
    return "\n".join(lines)


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
