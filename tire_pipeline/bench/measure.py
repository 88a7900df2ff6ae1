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


class Clock:
    """CPU and wall time since it was made. Children count once they have ended and were waited for."""

    def __init__(self) -> None:
        self._cpu_s, self._start_s = _cpu_s(), time.perf_counter()

    def run(self, images: int) -> Run:
        return Run(images, _cpu_s() - self._cpu_s, time.perf_counter() - self._start_s)


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
