"""Commands that measure: bench loader, bench serve, bench train."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tire_pipeline.cli.output import Json, progress, result, table, tell

if TYPE_CHECKING:
    from tire_pipeline.bench.measure import Row, TrainingRow
    from tire_pipeline.bench.serve import ServeRow

bench = typer.Typer(no_args_is_help=True, help="Measure the product against what people use instead.")


def add_to(app: typer.Typer) -> None:
    app.add_typer(bench, name="bench")


@bench.callback()
def measurements() -> None:
    """Measure the product against what people use instead."""


@bench.command()
def loader(
    num_images: Annotated[int, typer.Option(min=1, help="How many images an epoch has.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each design is measured.")] = 5,
    height: Annotated[int, typer.Option(min=16, help="Rows of a loaded image.")] = 224,
    width: Annotated[int, typer.Option(min=16, help="Columns of a loaded image.")] = 224,
    folder: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Your own pictures, instead of drawn ones.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare loaders of images by CPU time and images a second, in one interleaved run on an S3 server of its own.

    Example: `tire bench loader --num-images 2000 --rounds 5`
    """
    from tire_pipeline.bench.loader import DESIGNS, Plan, compare
    from tire_pipeline.bench.measure import as_json as document

    plan = Plan(num_images, rounds, height, width, folder)
    with _own_s3() as (home, work), progress("measuring") as move:
        rows = compare(plan, home=home, work=work, say=tell, progress=move)
    if as_json:
        result(document(rows, designs=DESIGNS), as_json=True)
        return
    columns = ["design", "CPU µs", "× naive", "lowest–highest", "normalised", "× naive", "images/s"]
    table("CPU µs an image, medians", columns, [_cells(row) for row in rows])


@bench.command()
def serve(
    rounds: Annotated[int, typer.Option(min=1, help="How often each server is asked.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long it is asked each time.")] = 5.0,
    connections: Annotated[int, typer.Option(min=1, help="How many clients ask at once.")] = 8,
    bundle: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Your own bundle, instead of an untrained cnn.")
    ] = None,
    peers: Annotated[Path, typer.Option(help="Python of the environment with the peers.")] = Path(
        ".venv-bench/bin/python"
    ),
    as_json: Json = False,
) -> None:
    """Compare servers of one ONNX model by throughput, latency and memory, in one interleaved run.

    Example: `tire bench serve --rounds 5 --seconds 5`
    """
    from tire_pipeline.bench.serve import compare_servers

    with tempfile.TemporaryDirectory(prefix="tire-bench-") as name, progress("measuring") as move:
        rows = compare_servers(
            Path(name),
            bundle=bundle,
            rounds=rounds,
            seconds=seconds,
            connections=connections,
            peers_python=peers,
            say=tell,
            progress=move,
        )
    if as_json:
        result({"rows": [asdict(row) for row in rows]}, as_json=True)
        return
    columns = ["server", "answers/s", "lowest–highest", "p50 ms", "p99 ms", "CPU ms", "memory MB", "failed"]
    table("One model, medians", columns, [_served(row) for row in rows])


def _served(row: ServeRow) -> list[str]:
    return [
        row.server.replace(" ", "\N{NO-BREAK SPACE}"),
        f"{row.per_s:,.0f}",
        f"{row.per_s_min:,.0f}–{row.per_s_max:,.0f}",
        f"{row.p50_ms:,.1f}",
        f"{row.p99_ms:,.1f}",
        f"{row.cpu_ms:,.2f}",
        f"{row.memory_mb:,.0f}",
        str(row.failed),
    ]


@bench.command()
def train(
    model_type: Annotated[str, typer.Option(help="The network.")] = "resnet18",
    num_images: Annotated[int, typer.Option(min=20, help="How many photographs are drawn.")] = 400,
    side: Annotated[int, typer.Option(min=32, help="Rows and columns of an image.")] = 128,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 4,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="Of the CPU, and workers of the loaders.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="How often each loop trains.")] = 3,
    score: Annotated[float, typer.Option(help="The balanced accuracy whose time is taken.")] = 0.8,
    folder: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Your own pictures with a labels.csv.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare loops that train, in one interleaved run: ours, timm's, torchvision's, and the naive one.

    Example: `tire bench train --model-type resnet18 --side 128 --rounds 3`
    """
    from tire_pipeline.bench.training import Plan, compare

    plan = Plan(
        model_type=model_type,
        num_images=num_images,
        side=side,
        epochs=epochs,
        batch_size=batch_size,
        threads=threads,
        rounds=rounds,
        score=score,
        source=str(folder or ""),
    )
    with _own_s3() as (home, work), progress("training") as move:
        rows = compare(plan, home=home, work=work, say=tell, progress=move)
    if as_json:
        result({"rows": [asdict(row) for row in rows]}, as_json=True)
        return
    columns = ["loop", "images/s", "lowest–highest", "× naive", "best score", f"s to {score:g}"]
    table("Trainings, medians", columns, [_training_cells(row) for row in rows])


@contextmanager
def _own_s3() -> Iterator[tuple[Path, Path]]:
    """The home of a stack with an S3 server alone, and an empty folder to work in; both are gone afterwards."""
    from tire_pipeline import stack

    with tempfile.TemporaryDirectory(prefix="tire-bench-") as name:
        home, work = Path(name) / "home", Path(name) / "work"
        work.mkdir()
        try:
            stack.up(home, parts=("s3",), environ={})
            yield home, work
        finally:
            stack.down(home)


def _training_cells(row: TrainingRow) -> list[str]:
    return [
        row.loop,
        f"{row.images_per_s:,.1f}",
        f"{row.images_per_s_min:,.1f}–{row.images_per_s_max:,.1f}",
        f"{row.times_naive or 0:,.1f}",
        f"{row.best_score:.3f}",
        "never" if row.seconds_to_score is None else f"{row.seconds_to_score:,.1f}",
    ]


def _cells(row: Row) -> list[str]:
    return [
        row.design.replace(" ", "\N{NO-BREAK SPACE}"),
        f"{row.cpu_us_per_image:,.0f}",
        f"{row.times_naive or 0:,.1f}",
        f"{row.cpu_us_per_image_min:,.0f}–{row.cpu_us_per_image_max:,.0f}",
        f"{row.cpu_us_per_image_normalised:,.0f}",
        f"{row.times_naive_normalised or 0:,.1f}",
        f"{row.images_per_s:,.0f}",
    ]
