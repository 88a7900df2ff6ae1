"""Rounds, orders and figures of a comparison: pure but for the clock."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Run:
    """One measurement of a design. `cpu_s` is user and system time of the process and its finished children.

    `device_cpu_s`: what the device's part (colours and normalisation) took on top, where a design ends with uint8.
    """

    images: int
    cpu_s: float
    seconds: float
    device_cpu_s: float = 0.0


@dataclass(frozen=True)
class Row:
    """A design's runs as one line of the table: medians, and the extremes of the CPU time.

    `…_normalised` counts the device's part as well, as if this CPU were the device: float32 at the end, as for naive.
    """

    design: str
    cpu_us_per_image: float
    images_per_s: float
    runs: int
    cpu_us_per_image_min: float
    cpu_us_per_image_max: float
    cpu_us_per_image_normalised: float
    times_naive: float | None = None
    times_naive_normalised: float | None = None


@dataclass(frozen=True)
class Training:
    """One training: training images seen, and after each epoch the seconds since its start and the validation score."""

    run: Run
    scores: Sequence[tuple[float, float]]

    def seconds_to(self, score: float) -> float | None:
        """When the score was reached first, None if it never was."""
        return next((seconds for seconds, reached in self.scores if reached >= score), None)


@dataclass(frozen=True)
class TrainingRow:
    """A loop's trainings as one line of the table: medians, and the extremes of the speed. `seconds_to_score` is None
    where most of them did not reach it."""

    loop: str
    images_per_s: float
    images_per_s_min: float
    images_per_s_max: float
    runs: int
    best_score: float
    seconds_to_score: float | None
    times_naive: float | None = None


class Clock:
    """CPU and wall time since it was made. Children count once they have ended and were waited for."""

    def __init__(self) -> None:
        self._cpu_s, self._start_s = _cpu_s(), time.perf_counter()

    def run(self, images: int) -> Run:
        return Run(images, _cpu_s() - self._cpu_s, self.seconds())

    def seconds(self) -> float:
        return time.perf_counter() - self._start_s


def rotated(designs: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """The designs of each round: every design once, each round begun by another, so that drift meets all alike."""
    for number in range(rounds):
        at = number % len(designs)
        yield [*designs[at:], *designs[:at]]


def rows_of(runs: Mapping[str, Sequence[Run]]) -> list[Row]:
    """One row a design that ran, with how many times less CPU than `naive` it takes."""
    rows = {design: _row(design, found) for design, found in runs.items() if found}
    naive = rows.get("naive")
    if naive is None:
        return list(rows.values())
    return [
        replace(
            row,
            times_naive=naive.cpu_us_per_image / row.cpu_us_per_image,
            times_naive_normalised=naive.cpu_us_per_image_normalised / row.cpu_us_per_image_normalised,
        )
        for row in rows.values()
    ]


def training_rows(trainings: Mapping[str, Sequence[Training]], *, score: float) -> list[TrainingRow]:
    """One row a loop that ran, with how many times faster than `naive` it trains; frozen ones than `naive_frozen`."""
    rows = {loop: _training_row(loop, found, score) for loop, found in trainings.items() if found}

    def against(row: TrainingRow) -> TrainingRow:
        naive = rows.get("naive_frozen" if row.loop.endswith("_frozen") else "naive")
        return replace(row, times_naive=row.images_per_s / naive.images_per_s) if naive else row

    return [against(row) for row in rows.values()]


def _training_row(loop: str, trainings: Sequence[Training], score: float) -> TrainingRow:
    speeds = [t.run.images / t.run.seconds for t in trainings]
    reached = sorted(seconds for t in trainings if (seconds := t.seconds_to(score)) is not None)
    return TrainingRow(
        loop=loop,
        images_per_s=statistics.median(speeds),
        images_per_s_min=min(speeds),
        images_per_s_max=max(speeds),
        runs=len(trainings),
        best_score=statistics.median(max(reached for _, reached in t.scores) for t in trainings),
        seconds_to_score=statistics.median(reached) if 2 * len(reached) > len(trainings) else None,
    )


def as_json(rows: Iterable[Row], *, designs: Sequence[str]) -> dict[str, list[dict[str, object]]]:
    """`{"rows": […]}` with the rows of `designs`, in that order, and no others."""
    found = {row.design: row for row in rows}
    return {"rows": [asdict(found[design]) for design in designs if design in found]}


def _row(design: str, runs: Sequence[Run]) -> Row:
    cpu_us = [run.cpu_s / run.images * 1e6 for run in runs]
    normalised_us = [(run.cpu_s + run.device_cpu_s) / run.images * 1e6 for run in runs]
    return Row(
        design=design,
        cpu_us_per_image=statistics.median(cpu_us),
        images_per_s=statistics.median(run.images / run.seconds for run in runs),
        runs=len(runs),
        cpu_us_per_image_min=min(cpu_us),
        cpu_us_per_image_max=max(cpu_us),
        cpu_us_per_image_normalised=statistics.median(normalised_us),
    )


def _cpu_s() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
