"""The trigger form of `train_and_promote`. An empty field means: as the candidate's own recipe says."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

from tire_pipeline.refs import VERSION_PATTERN
from tire_pipeline.steps.request import TARGETS
from tire_pipeline.training.options import GATE, OPTIONS  # light: no torch behind it
from tire_pipeline.training.recipes import RECIPES

METRICS = (
    "balanced_accuracy",
    "accuracy",
    "f1_macro",
    "f1_weighted",
    "recall",
    "precision",
    "specificity",
    "auroc",
    "auprc",
    "log_loss",
    "cost",
)


def trigger_form() -> dict[str, Param]:
    """The fields, in the order they are shown."""
    return {
        "dataset_version": Param(
            type="string",
            pattern=f"^{VERSION_PATTERN.pattern}$",
            title="Dataset version",
            description="The folder below `datasets/` in the bucket.",
        ),
        "candidates": Param(
            ["resnet18", "cnn", "tiny_vgg"],
            type="array",
            examples=list(RECIPES),
            title="Candidates",
            description="Each is trained in a task of its own.",
        ),
        "more_candidates": Param(
            "",
            type=["null", "string"],
            title="More candidates",
            description="Any others, with commas between them: timm:mobilenetv3_small_100, timm:vit_tiny_patch16_224.",
        ),
        "metric": Param("balanced_accuracy", type="string", enum=list(METRICS), title="Metric that decides"),
        "threshold": Param(
            0.75,
            type="number",
            title="Threshold",
            description="What the metric must reach on the test split (a loss must stay under it).",
        ),
        "target": Param("production", type="string", enum=list(TARGETS), title="Promote as far as"),
        "approval": Param(False, type="boolean", title="Ask a person before production"),
        "robust": Param(
            False,
            type="boolean",
            title="Also under blur, little light, noise, compression and turns",
            description="Every candidate is evaluated six times instead of once, with maps of where it looked.",
        ),
        "seed": Param(0, type="integer", minimum=0, maximum=2**32 - 1, title="Seed"),
        "max_bad": _limit("Share of unreadable files that is let pass", "Empty: 0.01."),
        "max_probe": _limit(
            "Metadata probe that refuses",
            "Refuse the version where size, format, camera and brightness alone tell the label better than this "
            "(balanced accuracy). Empty: warn above 0.60.",
        ),
        **{name: _option(name) for name in OPTIONS if name != "seed"},
        "min_slice": _limit("Lowest accuracy of a slice", "Empty: 0.5.", section=GATE),
        "slice_images": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            section=GATE,
            title="Images from which a slice is judged",
            description="Empty: 50.",
        ),
        "max_ece": _limit("Highest calibration error", "Empty: 0.15.", section=GATE),
        "alpha": _limit("Chance that may make it better", "Than the champion, at most. Empty: 0.05.", section=GATE),
        "recall_margin": _limit("Recall that may be lost", "Against the champion. Empty: 0.02.", section=GATE),
    }


def _option(name: str) -> Param:
    """A field of the training configuration, empty: as the candidate's recipe has it."""
    option = OPTIONS[name]
    kind = {int: "integer", float: "number", bool: "boolean", str: "string"}[option.kind]
    limits: dict[str, Any] = {}
    if option.choices:
        limits["enum"] = [None, *option.choices]
    elif option.kind in (int, float):
        limits = {"minimum": option.low, "maximum": option.high}
    title = name.removesuffix("_type").replace("_", " ").capitalize()
    return Param(None, type=["null", kind], section=option.section, title=title, description=option.help, **limits)


def _limit(title: str, description: str, *, section: str = "Data") -> Param:
    """A share, 0 to 1, that must be kept."""
    kind = ["null", "number"]
    return Param(None, type=kind, minimum=0, maximum=1, section=section, title=title, description=description)
