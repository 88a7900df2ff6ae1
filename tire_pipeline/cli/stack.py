"""Commands on the embedded stack: up, down, status, doctor, demo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tire_pipeline.cli.output import Json, result, table, tell
from tire_pipeline.settings import load_settings

if TYPE_CHECKING:
    from tire_pipeline.stack import StackInfo


def add_to(app: typer.Typer) -> None:
    for command in (up, down, status, doctor, demo):
        app.command()(command)


def up(
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when all parts answer; `tire down` stops them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start PostgreSQL, S3, MLflow, Airflow and the server on loopback. Safe to repeat.

    Example: `tire up --detach`. Another stack beside it: `TIRE_HOME=.tire-two TIRE_PROJECT=pitting tire up`.
    """
    from tire_pipeline import stack

    settings = load_settings()
    info = stack.up(settings.home, project=settings.project, say=tell)
    result(info, as_json=as_json, text=_places(info))
    if detach:
        return
    tell("Ctrl-C stops the stack.")
    try:
        stack.wait(settings.home)
    finally:
        stack.down(settings.home, say=tell)


def _places(info: StackInfo) -> str:
    from tire_pipeline.stack.stages import addresses

    return "\n".join(f"{name:<13} {place}" for name, place in addresses(info).items())


def down(as_json: Json = False) -> None:
    """Stop the stack; no process is left, all data stays."""
    from tire_pipeline import stack

    stopped = stack.down(load_settings().home, say=tell)
    result({"stopped": stopped}, as_json=as_json, text="")


def status(as_json: Json = False) -> None:
    """Show each part, whether it answers, and where."""
    from tire_pipeline import stack

    home = load_settings().home
    parts = stack.status(home)
    if as_json:
        result(parts, as_json=True)
    else:
        rows = [(p.name, p.state, p.pid, p.uptime_s and f"{p.uptime_s:.0f} s", p.address) for p in parts]
        table("", ["part", "state", "pid", "up", "address"], rows)
        for p in parts:
            if p.reason:
                tell(f"{p.name}: {p.reason}")
        if parts and (shortage := stack.disk_shortage(home)):
            tell(shortage, title="disk")
    if any(p.state != "healthy" for p in parts) or not parts:
        raise typer.Exit(3)


def doctor(as_json: Json = False) -> None:
    """Say what this machine lacks, and the way out."""
    from tire_pipeline import stack

    checks = stack.doctor(load_settings().home)
    if as_json:
        result(checks, as_json=True)
    else:
        rows = [("✓" if c.ok else "✗", c.name, c.found, "" if c.ok else c.fix) for c in checks]
        table("", ["", "check", "found", "what to do"], rows)
    if not all(c.ok for c in checks):
        raise typer.Exit(2)


def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="Stop the stack afterwards; exit 0 if a model was promoted.")
    ] = False,
    num_images: Annotated[int, typer.Option(help="Size of the sample.")] = 1100,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    shuffle_labels: Annotated[bool, typer.Option(help="Random labels: the gate must refuse.")] = False,
    compose: Annotated[
        bool, typer.Option("--compose", help="On the stack of docker-compose.yaml, whose images must be there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The whole story: a sample is pushed, Airflow trains and promotes, the server answers.

    Example: `tire demo --exit`
    """
    from tire_pipeline.stack import demo as story
    from tire_pipeline.stack.compose import Compose
    from tire_pipeline.stack.stages import Embedded

    stage = Compose(load_settings()) if compose else Embedded(load_settings(), say=tell)
    outcome = story.run(stage, num_images=num_images, seed=seed, shuffle_labels=shuffle_labels, leave=leave, say=tell)
    result(outcome, as_json=as_json, text=story.summary(outcome), markup=True)
    if not leave:
        story.stay(stage, say=tell)
    raise typer.Exit(0 if outcome.promoted else 1)
