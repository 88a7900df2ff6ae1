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

from tire_pipeline.datasets.snapshots import group_given
from tire_pipeline.errors import TireError
from tire_pipeline.validation import suites
from tire_pipeline.validation.signals import Signals
from tire_pipeline.validation.suites import Demand, Limits

Severity = Literal["refuse", "warn"]


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
    kinds = suites.kinds_of(_labelled(index))
    for name, canary in suites.canaries(kinds).items():
        if not any(v.refuses for v in _judge(canary, canary_limits, Signals(), kinds)):
            raise TireError(f"The validation suite let the {name} canary pass; none of its verdicts can be believed.")
    return _judge(index, limits, signals or Signals(), kinds)


def _judge(index: pd.DataFrame, limits: Limits, signals: Signals, kinds: tuple[str, ...]) -> list[Verdict]:
    labelled = _labelled(index)
    summary = signals.as_row(len(labelled)) | {
        "bad_share": float((index["error"] != "").mean()) if len(index) else 1.0,
        "ungrouped_share": float((~group_given(labelled)).mean()) if "grouped" in kinds else 0.0,
    }
    return [
        *_run(labelled, suites.index_suite(limits), naming="path"),
        *_run(suites.class_rows(labelled), suites.class_suite(limits, kinds), naming="label"),
        *_run(pd.DataFrame([summary]), suites.summary_suite(limits, kinds)),
    ]


def _labelled(index: pd.DataFrame) -> pd.DataFrame:
    return index[(index["error"] == "") & (index["label"] != "")]


def _run(frame: pd.DataFrame, suite: list[Demand], *, naming: str = "") -> list[Verdict]:
    """The verdicts of a suite on a frame; `naming` is the column by which an offending row is named to people."""
    batch = _batch_definition().get_batch({"dataframe": frame.reset_index(drop=True)})
    result_format: dict[str, Any] = {"result_format": "SUMMARY"}
    if naming in frame:
        result_format["unexpected_index_column_names"] = [naming]
    expectations = [demand[0] for demand in suite]
    named = gx.ExpectationSuite(name=f"version {suites.SUITE_VERSION}", expectations=expectations)
    result = batch.validate(named, result_format=result_format)
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
