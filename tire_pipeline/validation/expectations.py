"""The expectations on a snapshot's index, run by Great Expectations.

Great Expectations passes an empty frame and all-null columns, so every suite demands rows and values, the number of
results is counted, and frames that must fail (canaries) are judged before the real one, in every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations import core as gxe

from tire_pipeline.errors import TireError

SUITE_VERSION = 1
INDEX_COLUMNS = ("path", "key", "sha256", "bytes", "label", "group", "width", "height", "format", "brightness")


@dataclass(frozen=True)
class Limits:
    """What a dataset version must satisfy."""

    num_images_min: int = 20
    images_per_class_min: int = 10
    side_min_px: int = 32
    bad_max: float = 0.01


@dataclass(frozen=True)
class Verdict:
    """One expectation's outcome, in words: what was demanded, what was found, and how to mend it."""

    name: str
    ok: bool
    demand: str
    found: str
    fix: str


def judge(index: pd.DataFrame, limits: Limits) -> list[Verdict]:
    """The verdict of every expectation on an index (see `datasets.snapshots`).

    Raises TireError when a canary passes: then no verdict could be believed.
    """
    canary_limits = replace(limits, num_images_min=3, images_per_class_min=2)
    for name, canary in _canaries().items():
        if all(v.ok for v in _judge(canary, canary_limits)):
            raise TireError(f"The validation suite let the {name} canary pass; none of its verdicts can be believed.")
    return _judge(index, limits)


def _judge(index: pd.DataFrame, limits: Limits) -> list[Verdict]:
    readable = index[index["error"] == ""] if "error" in index else index
    labelled = readable[readable["label"] != ""] if "label" in readable else readable
    counts = labelled["label"].value_counts() if "label" in labelled else pd.Series(dtype=int)
    classes = pd.DataFrame({"label": counts.index.astype(str), "count": counts.to_numpy()})
    summary = pd.DataFrame({"bad_share": [(len(index) - len(readable)) / len(index) if len(index) else 1.0]})
    return [
        *_run(labelled, _index_suite(limits), naming="path"),
        *_run(classes, _class_suite(limits), naming="label"),
        *_run(summary, _summary_suite(limits)),
    ]


Demand = tuple[Any, str, str]  # expectation, the demand in words, the fix


def _index_suite(limits: Limits) -> list[Demand]:
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


def _class_suite(limits: Limits) -> list[Demand]:
    return [
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


def _summary_suite(limits: Limits) -> list[Demand]:
    return [
        (
            gxe.ExpectColumnValuesToBeBetween(column="bad_share", min_value=0.0, max_value=limits.bad_max),
            f"at most {limits.bad_max:.1%} of the files are unreadable",
            "See quarantine.csv for each file and its reason; export these again, or raise --max-bad.",
        )
    ]


def _run(frame: pd.DataFrame, suite: list[Demand], *, naming: str = "") -> list[Verdict]:
    """The verdicts of a suite on a frame; `naming` is the column by which an offending row is named to people."""
    batch = _batch_definition().get_batch({"dataframe": frame.reset_index(drop=True)})
    result_format: dict[str, Any] = {"result_format": "SUMMARY"}
    if naming in frame:
        result_format["unexpected_index_column_names"] = [naming]
    result = batch.validate(
        gx.ExpectationSuite(name="suite", expectations=[demand[0] for demand in suite]), result_format=result_format
    )
    by_config = {_key(r.expectation_config.type, r.expectation_config.kwargs): r for r in result.results}
    if len(by_config) != len(suite):
        raise TireError(f"Great Expectations gave {len(by_config)} results for {len(suite)} expectations.")
    return [_verdict(by_config[_key(e.expectation_type, e.configuration.kwargs)], *rest) for e, *rest in suite]


@cache
def _batch_definition() -> Any:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("index")
    return asset.add_batch_definition_whole_dataframe("all")


def _key(kind: str, kwargs: Mapping[str, Any]) -> str:
    return f"{kind}:{kwargs.get('column', '')}"


def _verdict(result: Any, demand: str, fix: str) -> Verdict:
    details = result.result or {}
    judged = details.get("element_count", 1) != 0 and bool(details)
    name = _key(result.expectation_config.type, result.expectation_config.kwargs).rstrip(":")
    found = _found(details) if judged else "there is nothing to judge"
    return Verdict(name=name, ok=bool(result.success) and judged, demand=demand, found=found, fix=fix)


def _found(details: Mapping[str, Any]) -> str:
    if "observed_value" in details:
        return f"found {details['observed_value']}"
    if not (differing := details.get("unexpected_count", 0)):
        return "so it is"
    rows = details.get("partial_unexpected_index_list") or details.get("partial_unexpected_list", [])
    examples = [" = ".join(map(str, reversed(r.values()))) if isinstance(r, dict) else str(r) for r in rows[:3]]
    return f"{differing} of {details['element_count']} are not: {', '.join(examples)}"


def _canaries() -> dict[str, pd.DataFrame]:
    """Frames that no run may accept."""
    good = pd.DataFrame(
        {
            "path": [f"{c}/{i}.jpg" for c in "ab" for i in range(4)],
            "key": [f"{c}/{i}.jpg" for c in "ab" for i in range(4)],
            "sha256": [f"{i:064x}" for i in range(8)],
            "bytes": 1000,
            "label": list("aaaabbbb"),
            "group": list("aabbccdd"),
            "width": 320,
            "height": 320,
            "format": "JPEG",
            "brightness": 100.0,
            "error": "",
        }
    )
    return {
        "empty": good.iloc[:0],
        "all-null": good.assign(**dict.fromkeys(INDEX_COLUMNS)).assign(label="a"),
        "missing-column": good.drop(columns="sha256"),
        "one-class": good.assign(label="a"),
        "unreadable": good.assign(error="truncated"),
    }
