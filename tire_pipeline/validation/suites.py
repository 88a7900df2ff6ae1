"""What is demanded of data: a suite of expectations for each kind of it, versioned with the code.

Every data set must satisfy the common suite. `grouped` ones, whose uploader says which images show the same thing, and
`divided` ones, whose uploader says which image is on which side, must satisfy a suite of their own as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from great_expectations.expectations import core as gxe

from tire_pipeline.datasets.snapshots import group_given
from tire_pipeline.splits.stratify import SIDES

SUITE_VERSION = 3
INDEX_COLUMNS = ("path", "key", "sha256", "bytes", "label", "group", "width", "height", "format", "brightness")
KINDS = ("grouped", "divided")
Demand = tuple[Any, ...]  # expectation, the demand in words, the fix, and the severity where it only warns


@dataclass(frozen=True)
class Limits:
    """What a dataset version must satisfy."""

    num_images_min: int = 20
    images_per_class_min: int = 10
    side_min_px: int = 32
    bad_max: float = 0.01
    probe_warns: float = 0.60
    probe_max: float | None = None
    """Above it the version is refused; None only warns."""


def kinds_of(labelled: pd.DataFrame) -> tuple[str, ...]:
    """Which of KINDS the data is, by its usable rows: grouped where any has a group, divided where all have a side."""
    if labelled.empty:
        return ()
    found = {"grouped": group_given(labelled).any(), "divided": (labelled["split"] != "").all()}
    return tuple(kind for kind in KINDS if found[kind])


def class_rows(labelled: pd.DataFrame) -> pd.DataFrame:
    """A row for each class: label, its number of images (count), of groups, and of images on each given side."""
    rows = labelled.assign(**{side: labelled["split"] == side for side in SIDES})
    sides = {side: (side, "sum") for side in SIDES}
    return rows.groupby("label").agg(count=("label", "size"), groups=("group", "nunique"), **sides).reset_index()


def index_suite(limits: Limits) -> list[Demand]:
    full = [
        (
            gxe.ExpectColumnValuesToNotBeNull(column=c),
            f"every image has a value for {c}",
            "Push the version again.",
        )
        for c in INDEX_COLUMNS
    ]
    sides = [
        (
            gxe.ExpectColumnValuesToBeBetween(column=c, min_value=limits.side_min_px),
            f"every image has a {c} of at least {limits.side_min_px} pixels",
            "Remove thumbnails and icons from the upload.",
        )
        for c in ("width", "height")
    ]
    return [
        (
            gxe.ExpectTableRowCountToBeBetween(min_value=limits.num_images_min),
            f"there are at least {limits.num_images_min} readable, labelled images",
            "Upload more images, in a folder per class or with labels.csv.",
        ),
        *full,
        *sides,
        (
            gxe.ExpectColumnValuesToBeUnique(column="path"),
            "every path stands once",
            "Remove the repeated rows from labels.csv.",
        ),
        (
            gxe.ExpectColumnValuesToMatchRegex(column="sha256", regex="^[0-9a-f]{64}$"),
            "every image has a sha256",
            "Push the version again.",
        ),
    ]


def class_suite(limits: Limits, kinds: tuple[str, ...]) -> list[Demand]:
    """On `class_rows`."""
    common = [
        (
            gxe.ExpectTableRowCountToBeBetween(min_value=2, max_value=1000),
            "there are at least two classes",
            "Upload a folder for each class, or label more than one class in labels.csv.",
        ),
        (
            gxe.ExpectColumnValuesToBeBetween(column="count", min_value=limits.images_per_class_min),
            f"every class has at least {limits.images_per_class_min} images",
            "Add images to the small classes, or leave these classes out.",
        ),
    ]
    grouped = [
        (
            gxe.ExpectColumnValuesToBeBetween(column="groups", min_value=len(SIDES)),
            "every class has images of at least three groups",
            "A group lies on one side of the split as a whole, so one side would lack the class. Photograph it on more "
            "things, or correct the group column of labels.csv.",
        )
    ]
    divided = [
        (
            gxe.ExpectColumnValuesToBeBetween(column=side, min_value=1),
            f"every class has images on the {side} side that was given",
            "Correct the splits that were given, or take them away: images are then divided by their groups.",
        )
        for side in SIDES
    ]
    return common + grouped * ("grouped" in kinds) + divided * ("divided" in kinds)


def summary_suite(limits: Limits, kinds: tuple[str, ...]) -> list[Demand]:
    """On one row: `Signals.as_row`, with the shares of unreadable files and of images without a group."""
    warnings = [
        (
            gxe.ExpectColumnMinToBeBetween(column="smallest_class_share", min_value=0.1),
            "the smallest class has at least a tenth of the images of the largest",
            "Add images of the small classes, or judge by balanced accuracy and recall.",
        ),
        (
            _at_most("largest_group_share", 0.2),
            "no group holds more than 20 % of the images",
            "A group lies on one side of the split as a whole; divide it where it is several physical things.",
        ),
        (
            _at_most("duplicate_share", 0.1),
            "at most 10 % of the images are near-copies of another",
            "Copies teach nothing; the report shows them side by side. They are kept on one side of the split.",
        ),
        (
            _at_most("outlier_share", 0.02),
            "at most 2 % of the images stand apart in size, light or focus",
            "Look at them in the report: a camera may be set up wrongly.",
        ),
        (
            _at_most("suspect_share", 0.02),
            "at most 2 % of the labels are doubtful",
            "Look at them in the report, correct labels.csv where they are wrong, and push a new version.",
        ),
        (
            _at_most("num_shifts", 0),
            "nothing has shifted against the data of the model in production",
            "See the report for what moved; new cameras or light need new labelled images.",
        ),
        (
            _at_most("num_changed_classes", 0),
            "the classes are those of the model in production",
            "Check the spelling of the classes; a new class cannot be compared with the champion.",
        ),
    ]
    refusals = [
        (
            _at_most("bad_share", limits.bad_max),
            f"at most {limits.bad_max:.1%} of the files are unreadable",
            "See quarantine.csv for each file and its reason; export these again, or raise --max-bad.",
        )
    ]
    fix = "Photograph every class with the same cameras and light: a model would learn these instead of the defect."
    if "grouped" in kinds:
        demand = "every image has a group, where some have one"
        warnings.append((_at_most("ungrouped_share", 0), demand, "Fill the gaps in the group column of labels.csv."))
    if limits.probe_max is None or limits.probe_max > limits.probe_warns:
        demand = f"size, format, camera and brightness tell the label at most at {limits.probe_warns:.2f}"
        warnings.insert(0, (_at_most("metadata_probe", limits.probe_warns), demand, fix))
    if limits.probe_max is not None:
        demand = f"the metadata probe reaches at most {limits.probe_max:.2f} (--max-probe)"
        refusals.append((_at_most("metadata_probe", limits.probe_max), demand, fix))
    return [*refusals, *((*warning, "warn") for warning in warnings)]


def _at_most(column: str, limit: float) -> Any:
    return gxe.ExpectColumnMaxToBeBetween(column=column, min_value=0.0, max_value=limit)


def canaries(kinds: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """Frames that no run may accept, each with one fault, under the suites of these kinds."""
    good = pd.DataFrame(
        {
            "path": [f"{c}/{i}.jpg" for c in "ab" for i in range(4)],
            "key": [f"{c}/{i}.jpg" for c in "ab" for i in range(4)],
            "sha256": [f"{i:064x}" for i in range(8)],
            "bytes": 1000,
            "label": list("aaaabbbb"),
            "group": list("abcdefgh"),
            "split": ["train", "train", "val", "test"] * 2,
            "width": 320,
            "height": 320,
            "format": "JPEG",
            "brightness": 100.0,
            "error": "",
        }
    )
    own = {
        "grouped": {"two-groups": good.assign(group=list("aaabccde"))},
        "divided": {"untested": good.assign(split=["train", "train", "val", "val"] * 2)},
    }
    common = {
        "empty": good.iloc[:0],
        "all-null": good.assign(**dict.fromkeys(INDEX_COLUMNS)).assign(label="a"),
        "missing-column": good.drop(columns="format"),
        "one-class": good.assign(label="a"),
        "unreadable": good.assign(error="truncated"),
    }
    return common | {name: frame for kind in kinds for name, frame in own[kind].items()}
