"""Commands on what runs: serve, monitor, feedback, reap."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from tire_pipeline import steps
from tire_pipeline.cli.output import Json, result, tell
from tire_pipeline.settings import load_settings


def add_to(app: typer.Typer) -> None:
    for command in (serve, monitor, feedback, reap):
        app.command()(command)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    bundle: Annotated[Path | None, typer.Option(help="Serve this bundle folder and follow nothing.")] = None,
) -> None:
    """Answer for the model in production over HTTP, and follow it when it changes.

    Example: `tire serve --bundle ./bundle --port 8000`
    """
    from tire_pipeline.serving.server import serve as run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    run(load_settings(), host=host, port=port, bundle=bundle)


def monitor(
    since_minutes: Annotated[int, typer.Option("--since", help="Length of the window in minutes.")] = 15,
    as_json: Json = False,
) -> None:
    """Measure the last window of production and send what people must hear of.

    Example: `tire monitor --since 60 --json`
    """
    record = steps.monitor(window=timedelta(minutes=since_minutes))
    metrics = record["metrics"]
    text = f"{metrics['num_predictions']} predictions, {metrics['num_errors']} errors, {len(record['alerts'])} alerts"
    result(record, as_json=as_json, text=text)


def feedback(
    csv: Annotated[Path, typer.Argument(help="CSV with the columns prediction_id,label.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Tell the ledger what images really showed. Rows that cannot be used are named and stop nothing."""
    outcome = steps.feedback(csv)
    for line in outcome["refused"][:20]:
        tell(line)
    result(outcome, as_json=as_json, text=f"{outcome['recorded']} recorded, {len(outcome['refused'])} refused")
    if outcome["refused"]:
        raise typer.Exit(2)


def reap(as_json: Json = False) -> None:
    """Remove trainer containers whose task in Airflow has ended or is gone. `monitor_production` does it by itself.

    Example: `tire reap --json`
    """
    removed = steps.reap()
    text = "\n".join(f"{r['container']}: {r['reason']}" for r in removed) or "no trainer container is without its task"
    result(removed, as_json=as_json, text=text)
