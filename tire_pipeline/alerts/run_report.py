"""What a pipeline run decided, as a person reads it in Slack and in the run's note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tire_pipeline.metrics import LOWER_IS_BETTER
from tire_pipeline.refs import EvaluationRef


def compose(
    project: str,
    version: str,
    evaluations: Sequence[EvaluationRef],
    history: Sequence[Mapping[str, Any]],
    failures: Sequence[str],
    *,
    data_report: str = "",
) -> str:
    """Decision first, then the leaderboard, what failed, and where the data is reported on (an address).

    `history` is the run's own, newest first.
    """
    lines = [f"*{project}*, dataset version `{version}`: {_decision(evaluations, history, failures)}"]
    for e in sorted(evaluations, key=lambda e: e.metrics[e.metric] * (1 if e.metric in LOWER_IS_BETTER else -1)):
        value, low, high = (e.metrics[e.metric + suffix] for suffix in ("", "_low", "_high"))
        mark = "passed" if e.passed else "below the threshold"
        name = e.metric.replace("_", " ")
        lines.append(f"• {e.trained.candidate}: {name} {value:.3f} [{low:.3f}, {high:.3f}], {mark}")
    lines += [f"• failed: {f}" for f in failures]
    if data_report:
        lines.append(f"• report on the data: {data_report}")
    return "\n".join(lines)


def _decision(
    evaluations: Sequence[EvaluationRef], history: Sequence[Mapping[str, Any]], failures: Sequence[str]
) -> str:
    last = next((h for h in history if h["action"] in ("produced", "refused")), None)
    if last is not None and last["action"] == "produced":
        return f"version {last['to_version']} is in production, because {last['reason']}."
    if last is not None:
        return f"version {last['to_version']} was refused, because {last['reason']}."
    if staged := next((h for h in history if h["action"] == "staged"), None):
        return f"version {staged['to_version']} is in staging ({staged['reason']}); production was not touched."
    if evaluations and not any(e.passed for e in evaluations):
        return f"nothing was promoted, because no candidate passed: {evaluations[0].reason.split(', ')[-1]}."
    return "nothing was promoted, because the run failed." if failures else "nothing was promoted."
