"""The expectations on a snapshot's index, run by Great Expectations.

Great Expectations passes an empty frame and all-null columns, so every suite demands rows and values, the number of
results is counted, and frames that must fail (canaries) are judged before the real one, in every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import great_expectations as gx
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations import core as gxe

from tire_pipeline.errors import TireError
from tire_pipeline.validation.signals import Signals

SUITE_VERSION = 2
INDEX_COLUMNS = ("path", "key", "sha256", "bytes", "label", "group", "width", "height", "format", "brightness")


Severity = Literal["refuse", "warn"]


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


@dataclass(frozen=True)
class Verdict:
    """One expectation's outcome, in words: what was demanded, what was found, and how to mend it.

    One that is not ok refuses the version, or only warns, by its severity.
    """

    name: str
    ok: bool
    demand: str
    found: str
    fix: str
    severity: Severity = "refuse"

    @property
    def refuses(self) -> bool:
        return not self.ok and self.severity == "refuse"

    @property
    def warns(self) -> bool:
        return not self.ok and self.severity == "warn"


def judge(index: pd.DataFrame, limits: Limits, signals: Signals | None = None) -> list[Verdict]:
    """The verdict of every expectation on an index (see `datasets.snapshots`) and on its signals.

    Raises TireError when a canary passes: then no verdict could be believed.
    """
    canary_limits = replace(limits, num_images_min=3, images_per_class_min=2)
    for name, canary in _canaries().items():
        if not any(v.refuses for v in _judge(canary, canary_limits, Signals())):
            raise TireError(f"The validation suite let the {name} canary pass; none of its verdicts can be believed.")
    return _judge(index, limits, signals or Signals())


def _judge(index: pd.DataFrame, limits: Limits, signals: Signals) -> list[Verdict]:
    readable = index[index["error"] == ""] if "error" in index else index
    labelled = readable[readable["label"] != ""] if "label" in readable else readable
    counts = labelled["label"].value_counts() if "label" in labelled else pd.Series(dtype=int)
    classes = pd.DataFrame({"label": counts.index.astype(str), "count": counts.to_numpy()})
    bad_share = (len(index) - len(readable)) / len(index) if len(index) else 1.0
    summary = pd.DataFrame([{"bad_share": bad_share, **signals.as_row(len(labelled))}])
    return [
        *_run(labelled, _index_suite(limits), naming="path"),
        *_run(classes, _class_suite(limits), naming="label"),
        *_run(summary, _summary_suite(limits)),
    ]


Demand = tuple[Any, ...]  # expectation, the demand in words, the fix, and the severity where it only warns


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
    if limits.probe_max is None or limits.probe_max > limits.probe_warns:
        demand = f"size, format, camera and brightness tell the label at most at {limits.probe_warns:.2f}"
        warnings.insert(0, (_at_most("metadata_probe", limits.probe_warns), demand, fix))
    if limits.probe_max is not None:
        demand = f"the metadata probe reaches at most {limits.probe_max:.2f} (--max-probe)"
        refusals.append((_at_most("metadata_probe", limits.probe_max), demand, fix))
    return [*refusals, *((*warning, "warn") for warning in warnings)]


def _at_most(column: str, limit: float) -> Any:
    return gxe.ExpectColumnMaxToBeBetween(column=column, min_value=0.0, max_value=limit)


def _run(frame: pd.DataFrame, suite: list[Demand], *, naming: str = "") -> list[Verdict]:
    """The verdicts of a suite on a frame; `naming` is the column by which an offending row is named to people."""
    batch = _batch_definition().get_batch({"dataframe": frame.reset_index(drop=True)})
    result_format: dict[str, Any] = {"result_format": "SUMMARY"}
    if naming in frame:
        result_format["unexpected_index_column_names"] = [naming]
    result = batch.validate(
        gx.ExpectationSuite(name="suite", expectations=[demand[0] for demand in suite]), result_format=result_format
    )
    by_config = {_key(r.expectation_config): r for r in result.results}
    if len(by_config) != len(suite):
        raise TireError(f"Great Expectations gave {len(by_config)} results for {len(suite)} expectations.")
    return [_verdict(by_config[_key(e.configuration)], *rest) for e, *rest in suite]


@cache
def _batch_definition() -> Any:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("index")
    return asset.add_batch_definition_whole_dataframe("all")


def _key(config: Any) -> tuple[str, ...]:
    """What tells the expectations of a suite apart."""
    return (config.type, *(str(config.kwargs.get(name, "")) for name in ("column", "min_value", "max_value")))


def _verdict(result: Any, demand: str, fix: str, severity: Severity = "refuse") -> Verdict:
    details = result.result or {}
    judged = details.get("element_count", 1) != 0 and bool(details)
    name = ":".join(part for part in _key(result.expectation_config)[:2] if part)
    found = _found(details) if judged else "there is nothing to judge"
    return Verdict(
        name=name, ok=bool(result.success) and judged, demand=demand, found=found, fix=fix, severity=severity
    )


def _found(details: Mapping[str, Any]) -> str:
    if "observed_value" in details:
        observed = details["observed_value"]
        return f"found {observed:.3g}" if isinstance(observed, float) else f"found {observed}"
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
