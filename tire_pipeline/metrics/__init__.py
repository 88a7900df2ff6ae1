"""Metrics of a classifier, their intervals, and two models compared. Arrays in, numbers out.

catalogue   the metrics by name
scored      a model's answers on images whose class is known, and what mistakes cost
values      every metric, for many weightings at once
intervals   Wilson's and the bootstrap's
paired      candidate against champion on the same images
"""

from __future__ import annotations

from tire_pipeline.metrics.catalogue import LOWER_IS_BETTER, better, canonical, names, of_label
from tire_pipeline.metrics.intervals import methods, proportion, wilson, with_intervals
from tire_pipeline.metrics.paired import (
    MCNEMAR,
    Difference,
    chance_of_saving,
    mcnemar,
    mcnemar_power,
    paired_differences,
)
from tire_pipeline.metrics.scored import Costs, Floats, Ints, Labels, Scored, cost_of
from tire_pipeline.metrics.values import confusion, point

__all__ = [
    "LOWER_IS_BETTER",
    "MCNEMAR",
    "Costs",
    "Difference",
    "Floats",
    "Ints",
    "Labels",
    "Scored",
    "better",
    "canonical",
    "chance_of_saving",
    "confusion",
    "cost_of",
    "mcnemar",
    "mcnemar_power",
    "methods",
    "names",
    "of_label",
    "paired_differences",
    "point",
    "proportion",
    "wilson",
    "with_intervals",
]
