"""An evaluation as files: one JSON record of all figures, every answer, and the mistakes of each side of the split."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tire_pipeline.bundle import Bundle
from tire_pipeline.evaluation.answers import Answers
from tire_pipeline.evaluation.by_label import judged, metrics_of
from tire_pipeline.evaluation.slices import slices
from tire_pipeline.metrics import Labels, Scored, confusion, methods, names, of_label, proportion

ANSWER_COLUMNS = ("path", "side", "label", "group", "predicted", "probability", "decision", "ms")


def measure(bundle: Bundle, test: Answers) -> dict[str, Any]:
    """All figures on the locked test split, as JSON values. `intervals` names how each metric's interval was made."""
    s = test.scored
    labels = judged(s, bundle.classes, positive_class=bundle.positive_class)
    metrics = metrics_of(s, test.groups, labels)
    return {
        "num_images": len(s.y_N),
        "num_positive": int(s.truth.sum()) if s.positives else None,
        "classes": bundle.classes,
        "positive_class": bundle.positive_class,
        "metrics": metrics,
        "intervals": _intervals({"": s, **labels}, test.groups),
        "confusion": confusion(s).tolist(),
        "per_class": _per_class(test, bundle.classes),
        "operating_point": _operating_point(bundle, test, labels),
        "slices": [asdict(found) for found in slices(test)],
        "ms_per_image": float(test.rows["ms"].median()),
    }


def write(record: dict[str, Any], everything: Answers, folder: Path) -> None:
    """`report.json`, `predictions.parquet` of all sides and `mistakes_<side>.csv`, the most confident first."""
    text = json.dumps(_plain(record), indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(text, encoding="utf-8")
    probabilities = [f"p_{c}" for c in record["classes"]]
    everything.rows[[*ANSWER_COLUMNS, *probabilities]].to_parquet(folder / "predictions.parquet", index=False)
    for side, rows in everything.rows.groupby("side"):
        mistakes(rows).to_csv(folder / f"mistakes_{side}.csv", index=False, lineterminator="\n")


def mistakes(rows: pd.DataFrame) -> pd.DataFrame:
    """The wrong answers: path, true_class, predicted_class, probability, decision, ms."""
    wrong = rows[rows["label"] != rows["predicted"]].sort_values(["probability", "path"], ascending=[False, True])
    wrong = wrong.rename(columns={"label": "true_class", "predicted": "predicted_class"})
    return wrong[["path", "true_class", "predicted_class", "probability", "decision", "ms"]].round({"probability": 6})


def _per_class(test: Answers, classes: list[str]) -> list[dict[str, Any]]:
    """Recall of each class with its interval."""
    s, found = test.scored, []
    for k, name in enumerate(classes):
        among_N = s.y_N == k
        recall, low, high = proportion(s.correct[among_N], test.groups[among_N])
        number = int(among_N.sum())
        recall = recall if number else math.nan
        found.append({"class": name, "num_images": number, "recall": recall, "recall_low": low, "recall_high": high})
    return found


def _intervals(labels: Labels, groups: np.ndarray) -> dict[str, str]:
    """How each metric's interval was made, those of a label behind its name."""
    found = dict[str, str]()
    for label, s in labels.items():
        own = methods(names(has_positive=bool(s.positives)), groups)
        found |= {of_label(name, label): how for name, how in own.items()}
    return found


def _operating_point(bundle: Bundle, test: Answers, labels: Labels) -> dict[str, Any]:
    """What the threshold and the review band, chosen on validation, come to on the test images; of several labels,
    what each of them has missed."""
    s, reviewed = test.scored, (test.rows["decision"] == "review").to_numpy()
    found: dict[str, Any] = {
        "threshold": bundle.threshold,
        "review_band": list(bundle.review_band),
        "temperature": bundle.temperature,
        "by_cost": bundle.costs is not None,
        "cost_miss": s.costs.miss,
        "cost_alarm": s.costs.alarm,
        "recall_min": bundle.recall_min,
        "num_reviewed": int(reviewed.sum()),
        "num_mistakes": int(np.sum(~s.correct)),
        "num_mistakes_not_reviewed": int(np.sum(~s.correct & ~reviewed)),
    }
    if s.positives:
        missed = s.truth & ~s.given
        found["num_missed"], found["num_alarms"] = _misses_and_alarms(s)
        found["num_missed_not_reviewed"] = int(np.sum(missed & ~reviewed))
        found["by_label"] = {label: _misses_and_alarms(own) for label, own in labels.items() if label and own.positives}
    return found


def _misses_and_alarms(s: Scored) -> tuple[int, int]:
    return int(np.sum(s.truth & ~s.given)), int(np.sum(s.given & ~s.truth))


def _plain(value: Any) -> Any:
    """JSON knows neither NaN nor infinity."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
