"""Commands on data: sample, dataset, validate, split."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tire_pipeline import steps
from tire_pipeline.cli.output import Json, progress, result, table, tell

Version = Annotated[str, typer.Argument(help="Name of the dataset version, such as demo-v1.", show_default=False)]

dataset = typer.Typer(no_args_is_help=True, help="Push, list, show, verify and pull dataset versions.")


def add_to(app: typer.Typer) -> None:
    app.command()(sample)
    app.add_typer(dataset, name="dataset")
    app.command()(validate)
    app.command()(split)


def sample(
    out: Annotated[Path, typer.Argument(help="Folder to write; must be empty or not exist.", show_default=False)],
    num_images: Annotated[int, typer.Option(help="How many photographs.")] = 400,
    seed: Annotated[int, typer.Option(help="The same seed draws the same bytes.")] = 0,
    defect_rate: Annotated[float, typer.Option(help="Share of tyres with a defect, 0 to 1.")] = 0.5,
    size: Annotated[int, typer.Option(help="About how many pixels a side.")] = 320,
    difficulty: Annotated[float, typer.Option(help="0: plain to see, 1: hardly visible.")] = 0.5,
    shuffle_labels: Annotated[bool, typer.Option(help="Give tyres random labels: nothing can be learnt.")] = False,
    as_json: Json = False,
) -> None:
    """Draw synthetic tyre photographs, folders by class, with labels.csv.

    Example: `tire sample tyres --num-images 400 --seed 0`
    """
    from tire_pipeline.sample import draw_sample

    with progress("drawing") as move:
        summary = draw_sample(
            out,
            num_images=num_images,
            seed=seed,
            defect_rate=defect_rate,
            size=size,
            difficulty=difficulty,
            shuffle_labels=shuffle_labels,
            progress=lambda done: move(done, num_images),
        )
    text = f"{summary.num_images} photographs of {summary.num_groups} tyres in {out}, {summary.num_defective} defective"
    result(summary, as_json=as_json, text=text)


@dataset.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Folder with a folder per class, or with labels.csv.")],
    version: Annotated[str, typer.Option(help="Name of the version: a-z, 0-9, '.', '_', '-'.")],
    labels: Annotated[Path | None, typer.Option(help="A labels.csv elsewhere.")] = None,
    path_column: Annotated[str, typer.Option(help="Column of labels.csv with the path.")] = "path",
    label_column: Annotated[str, typer.Option(help="Column with the class; several: condition,view.")] = "label",
    group_column: Annotated[str, typer.Option(help="Column with the physical thing.")] = "group",
    split_column: Annotated[str, typer.Option(help="Column with train, val or test.")] = "split",
    as_json: Json = False,
) -> None:
    """Upload a folder as a dataset version. The same content again is a no-op; the manifest is written last.

    Example: `tire dataset push photos --version 2026-11-line3`
    """
    from tire_pipeline.datasets.labels import Columns

    columns = Columns(path_column, label_column, group_column, split_column)
    with progress("uploading") as move:
        summary = steps.push(folder, version=version, labels=labels, columns=columns, progress=move)
    for path in summary.skipped[:5]:
        tell(f"skipped, no image: {path}")
    if summary.left_out:
        tell(f"left out, not in labels.csv: {len(summary.left_out)} images, the first {summary.left_out[0]}")
    done = f"{summary.uploaded} uploaded" if summary.uploaded else "all there already"
    result(summary, as_json=as_json, text=f"{version}: {summary.num_images} images, {done}")


@dataset.command(name="list")
def list_versions(as_json: Json = False) -> None:
    """List dataset versions, and whether each is complete."""
    rows = steps.list_versions()
    if as_json:
        result(rows, as_json=True)
    else:
        table("", ["version", "complete", "marker"], [(r["version"], r["complete"], r["marker"]) for r in rows])


@dataset.command()
def show(version: Version, as_json: Json = False) -> None:
    """Show what a version holds: classes, groups, bytes."""
    record = steps.show_version(version)
    lines = [f"{version}: {record['num_images']} images, {record['bytes'] / 1e6:.1f} MB, {record['num_groups']} groups"]
    lines += [f"  {label or '(unlabelled)'}: {n}" for label, n in record["classes"].items()]
    result(record, as_json=as_json, text="\n".join(lines))


@dataset.command()
def verify(version: Version, as_json: Json = False) -> None:
    """Compare every byte of a version with its manifest."""
    with progress("verifying") as move:
        record = steps.verify_version(version, progress=move)
    result(record, as_json=as_json, text=f"{version}: {record['num_images']} images are as they were pushed")


@dataset.command()
def pull(
    version: Version, out: Annotated[Path, typer.Argument(help="Folder to write.")], as_json: Json = False
) -> None:
    """Copy a version's images and labels into a folder."""
    num_images = steps.pull_version(version, out)
    result({"version": version, "num_images": num_images}, as_json=as_json, text=f"{num_images} images in {out}")


def validate(
    version: Version,
    max_bad: Annotated[float, typer.Option(help="Share of unreadable files that is let pass.")] = 0.01,
    max_probe: Annotated[
        float | None,
        typer.Option(help="Refuse where metadata alone tells the label better than this; else warn above 0.60."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Snapshot a version and check whether it can be trained from.

    Example: `tire validate demo-v1`
    """
    with progress("reading") as move:
        snapshot = steps.validate(version, max_bad=max_bad, max_probe=max_probe, progress=move)
    classes = ", ".join(snapshot.classes)
    text = f"{version}: accepted, {snapshot.num_images} images of {classes}\nsnapshot {snapshot.digest}"
    result(snapshot, as_json=as_json, text=text)


def split(
    version: Version,
    seed: Annotated[int, typer.Option(help="Another seed, another split.")] = 0,
    as_json: Json = False,
) -> None:
    """Divide a version into train, val and test by group, and prove that nothing leaks.

    Example: `tire split demo-v1 --seed 0`
    """
    with progress("reading") as move:
        made = steps.split(steps.validate(version, progress=move), seed=seed)
    text = f"{version}: {made.num_train} train, {made.num_val} val, {made.num_test} test\nsplit {made.digest}"
    result(asdict(made), as_json=as_json, text=text)
