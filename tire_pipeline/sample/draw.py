"""The sample data set: plan the tyres, draw each once, photograph it several times, write it down."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tire_pipeline.errors import InputError
from tire_pipeline.sample.camera import CAMERAS, expose
from tire_pipeline.sample.defects import draw_defect
from tire_pipeline.sample.marks import draw_marks
from tire_pipeline.sample.plan import CLASSES, DEFECTIVE, Group, plan_groups
from tire_pipeline.sample.pose import Light, Pose
from tire_pipeline.sample.scene import Tyre, photograph
from tire_pipeline.sample.sidewall import draw_sidewall
from tire_pipeline.sample.tread import HALF_WIDTH, LENGTH, draw_tread
from tire_pipeline.sample.wheel import draw_wheel

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_IMAGES = 20
LEAST_SIZE = 64
WORKERS = 2  # threads: NumPy and OpenCV let go of the lock, and a daemonic Airflow task may not start processes
COLUMNS = ("path", "label", "group", "view", "camera", "defect")


@dataclass(frozen=True)
class SampleSummary:
    """What was written."""

    num_images: int
    num_groups: int
    num_defective: int  # images
    classes: tuple[str, ...]


class Row(NamedTuple):
    """One line of labels.csv; `path` is relative to it, POSIX."""

    path: str
    label: str
    group: str
    view: str
    camera: str
    defect: str


def draw_sample(
    out: Path,
    *,
    num_images: int = 400,
    seed: int = 0,
    defect_rate: float = 0.5,
    size: int = 320,
    difficulty: float = 0.5,
    progress: Callable[[int], None] | None = None,
    shuffle_labels: bool = False,
) -> SampleSummary:
    """Write `good/*.jpg`, `defective/*.jpg` and `labels.csv` under `out`, which must be new or empty.

    The same arguments give the same bytes, however many threads draw. `size` is about the side of a picture in
    pixels; each camera has its own format around it. `difficulty` 0..1 makes defects smaller and fainter.
    `progress` is called with the number of images written so far. `shuffle_labels` deals the labels out among the
    tyres at random, so that nothing can be learnt.

    Raises InputError for arguments out of range and for an `out` that holds something.
    """
    refuse_bad_arguments(num_images, seed, defect_rate, size, difficulty)
    refuse_occupied(out)
    rng = np.random.default_rng([seed, 0])
    groups = plan_groups(num_images, rng=rng, defect_rate=defect_rate, shuffle_labels=shuffle_labels)
    for label in CLASSES:
        (out / label).mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for drawn in pool.map(lambda group: draw_group(out, group, seed, size, difficulty), groups):
            rows += drawn
            if progress is not None:
                progress(len(rows))
    write_labels(out / "labels.csv", rows)
    num_defective = sum(row.label == DEFECTIVE for row in rows)
    return SampleSummary(len(rows), len(groups), num_defective, CLASSES)


def draw_group(out: Path, group: Group, seed: int, size: int, difficulty: float) -> list[Row]:
    """Draw one tyre and all its shots; every random number comes from (seed, tyre, shot)."""
    tyre = make_tyre(group, seed=seed, size=size, difficulty=difficulty)
    rows = []
    for shot in range(group.shots):
        rng = np.random.default_rng([seed, 1, group.index, shot])
        camera = CAMERAS[int(rng.integers(len(CAMERAS)))]
        pose, light = stand(tyre, rng), Light.draw(rng)
        scene = photograph(tyre, pose, light, rng, camera.shape(size))
        path = f"{group.label}/{group.name}-{shot}.jpg"
        (out / path).write_bytes(expose(camera, scene, rng))
        rows.append(Row(path, group.label, group.name, group.view, camera.name, group.defect or ""))
    return rows


def make_tyre(group: Group, *, seed: int, size: int, difficulty: float) -> Tyre:
    """The physical tyre of a group. Rubber, dirt and damage have generators of their own: none disturbs the other."""
    make, dirty, damage = (np.random.default_rng([seed, 2 + part, group.index]) for part in range(3))
    px_per_unit = 0.95 * size
    if group.view == "sidewall":
        surface, rim_radius = draw_sidewall(make, px_per_unit=px_per_unit)
        wheel = draw_wheel(make, px=round(1.9 * rim_radius * px_per_unit))
        depth = make.uniform(0.35, 0.65)
        centre = (surface.shape[1] / 2, depth * surface.shape[0])
        spot = (-(1 - depth * (1 - rim_radius)), 0.0)
    else:
        surface, wheel, rim_radius = draw_tread(make, px_per_unit=px_per_unit), None, 0.0
        across = make.uniform(-0.28, 0.28)
        centre = (LENGTH / 2 * px_per_unit, (across + HALF_WIDTH) * px_per_unit)
        spot = (across, 0.0)
    if group.drawn is not None:
        draw_defect(surface, group.drawn, damage, at=centre, difficulty=difficulty)
    draw_marks(surface, dirty, around=centre)
    return Tyre.of(group.view, surface, spot, wheel, rim_radius)


def stand(tyre: Tyre, rng: np.random.Generator) -> Pose:
    """A place for the camera from which the spot of interest is in the picture, though seldom in its middle."""
    tilt, about = rng.uniform(0.05, 0.5), rng.uniform(0, 2 * np.pi)
    if tyre.view == "sidewall":
        scale, roll = rng.uniform(1.1, 2.0), rng.uniform(0, 2 * np.pi)
        nearest = max(0.0, 1 - 0.62 / (scale * abs(tyre.spot[0])))
        share = nearest + rng.uniform(0, 0.25)
    else:
        scale, roll = rng.uniform(1.4, 2.1), int(rng.integers(2)) * np.pi / 2 + rng.normal(0, 0.2)
        share = rng.uniform(0.2, 0.8)
    target = (tyre.spot[0] * share + rng.normal(0, 0.04), tyre.spot[1] + rng.normal(0, 0.08))
    return Pose.of(roll=roll, tilt=tilt, tilt_about=about, target=target, scale=scale)


def write_labels(path: Path, rows: list[Row]) -> None:
    """Write labels.csv with LF line ends on every platform."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def refuse_bad_arguments(num_images: int, seed: int, defect_rate: float, size: int, difficulty: float) -> None:
    """Raise InputError that names the first argument out of range, its value and the allowed ones."""
    if num_images < LEAST_IMAGES:
        raise InputError(
            f"num_images is {num_images}: too few to split by tyre. Ask for {LEAST_IMAGES} or more (default 400)."
        )
    if seed < 0:
        raise InputError(f"seed is {seed}: give 0 or more (default 0).")
    for name, value in (("defect_rate", defect_rate), ("difficulty", difficulty)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} is {value}: give a share between 0 and 1 (default 0.5).")
    if size < LEAST_SIZE:
        raise InputError(f"size is {size} px: defects vanish. Ask for {LEAST_SIZE} or more (default 320).")


def refuse_occupied(out: Path) -> None:
    """Raise InputError if `out` is a file or holds anything: old pictures would be taken for new ones."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, not a folder. Give the path of a new folder.")
    if out.is_dir() and (found := next(out.iterdir(), None)) is not None:
        raise InputError(f"{out} is not empty (it holds {found.name}). Empty it or give the path of a new folder.")
