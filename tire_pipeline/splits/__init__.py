"""Train, val and test: which image is on which side, and the proof that nothing is on two.

link      what belongs together: given groups, identical and near-duplicate images, one camera's minute
assign    a side for all that belongs together; an image keeps its side when the dataset grows
prove     that no content, near-duplicate or group is on two sides
folds     the same for cross-validation
"""

from __future__ import annotations

from tire_pipeline.splits.assignment import LEFT_OUT, Split, assign, digest, summary
from tire_pipeline.splits.folds import Fold, folds
from tire_pipeline.splits.likeness import Likeness, compare, compare_rows, likeness_of
from tire_pipeline.splits.links import Links, joined_groups, link
from tire_pipeline.splits.proof import prove
from tire_pipeline.splits.stratify import FRACTIONS, SIDES

__all__ = [
    "FRACTIONS",
    "LEFT_OUT",
    "SIDES",
    "Fold",
    "Likeness",
    "Links",
    "Split",
    "assign",
    "compare",
    "compare_rows",
    "digest",
    "folds",
    "joined_groups",
    "likeness_of",
    "link",
    "prove",
    "summary",
]
