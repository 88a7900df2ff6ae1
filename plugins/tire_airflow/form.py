"""The trigger form of `train_and_promote`. An empty field means: as the candidate's own recipe says."""

from __future__ import annotations

from airflow.sdk import Param

from tire_pipeline.refs import VERSION_PATTERN
from tire_pipeline.steps.request import TARGETS
from tire_pipeline.training.config import LOSSES, OPTIMIZERS, RECIPES  # light: no torch behind it

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


GATE = "Costs and gate"


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
        "metric": Param("balanced_accuracy", type="string", enum=list(METRICS), title="Metric that decides"),
        "threshold": Param(
            0.75,
            type="number",
            title="Threshold",
            description="What the metric must reach on the test split (a loss must stay under it).",
        ),
        "target": Param("production", type="string", enum=list(TARGETS), title="Promote as far as"),
        "approval": Param(False, type="boolean", title="Ask a person before production"),
        "seed": Param(0, type="integer", minimum=0, maximum=2**32 - 1, title="Seed"),
        "max_bad": _limit("Share of unreadable files that is let pass", "Empty: 0.01."),
        "max_probe": _limit(
            "Metadata probe that refuses",
            "Refuse the version where size, format, camera and brightness alone tell the label better than this "
            "(balanced accuracy). Empty: warn above 0.60.",
        ),
        "epochs": Param(None, type=["null", "integer"], minimum=1, maximum=10_000, section="Training", title="Epochs"),
        "batch_size": Param(
            None, type=["null", "integer"], minimum=2, maximum=4096, section="Training", title="Batch size"
        ),
        "learning_rate": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            maximum=10,
            section="Training",
            title="Learning rate",
            description="The highest rate of the one-cycle schedule.",
        ),
        "optimizer_type": Param(
            None, type=["null", "string"], enum=[None, *OPTIMIZERS], section="Training", title="Optimizer"
        ),
        "loss": Param(None, type=["null", "string"], enum=[None, *LOSSES], section="Training", title="Loss"),
        "cost_miss": _cost("Cost of a missed defect", "In any unit, together with the next. Chooses the threshold."),
        "cost_alarm": _cost("Cost of a false alarm", "Empty: a class counts as much as the other."),
        "cost_review": _cost(
            "Cost of a look by a person", "Sets the review band. Empty: a fifth around the threshold."
        ),
        "min_recall": _limit(
            "Lowest recall of defects",
            "The threshold keeps it on validation, the gate demands it on test.",
            section=GATE,
        ),
        "min_slice": _limit("Lowest accuracy of a slice", "Of 50 test images or more. Empty: 0.5.", section=GATE),
        "max_ece": _limit("Highest calibration error", "Empty: 0.15.", section=GATE),
        "recall_margin": _limit("Recall that may be lost", "Against the champion. Empty: 0.02.", section=GATE),
    }


def _limit(title: str, description: str, *, section: str = "Data") -> Param:
    """A share, 0 to 1, that must be kept."""
    kind = ["null", "number"]
    return Param(None, type=kind, minimum=0, maximum=1, section=section, title=title, description=description)


def _cost(title: str, description: str) -> Param:
    kind = ["null", "number"]
    return Param(None, type=kind, minimum=0, section=GATE, title=title, description=description)
