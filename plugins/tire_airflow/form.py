"""The trigger form of `train_and_promote`. An empty field means: as the candidate's own recipe says."""

from __future__ import annotations

from airflow.sdk import Param

from tire_pipeline.refs import VERSION_PATTERN
from tire_pipeline.steps.request import TARGETS
from tire_pipeline.training.config import AUGMENTATIONS, HEADS, LOSSES, OPTIMIZERS, RESIZES  # light: no torch behind it
from tire_pipeline.training.recipes import RECIPES

METRICS = (
    "balanced_accuracy",
    "accuracy",
    "f1_macro",
    "recall",
    "precision",
    "specificity",
    "auroc",
    "auprc",
    "log_loss",
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
        **_network(),
    }


def _network() -> dict[str, Param]:
    """What is trained, and on what it sees."""
    text, section = ["null", "string"], "Network and images"
    return {
        "weights": Param(
            None,
            type=text,
            section=section,
            title="Pretrained weights",
            description="`imagenet`, or the name of a file in TIRE_WEIGHTS. Empty: from scratch.",
        ),
        "head": Param(None, type=text, enum=[None, *HEADS], section=section, title="Head"),
        "dropout": Param(
            None, type=["null", "number"], minimum=0, maximum=0.9, section=section, title="Dropout of the head"
        ),
        "fixed_norms": Param(
            False, type="boolean", section=section, title="Batch norm keeps the statistics of the weights"
        ),
        "augmentation": Param(None, type=text, enum=[None, *AUGMENTATIONS], section=section, title="Augmentation"),
        "image_height": _side("Image height"),
        "image_width": _side("Image width"),
        "resize": Param(
            None,
            type=text,
            enum=[None, *RESIZES],
            section=section,
            title="To that size by",
            description="`stretch` brings each side to its length, `crop` keeps the ratio and leaves out the borders.",
        ),
    }


def _side(title: str) -> Param:
    kind = ["null", "integer"]
    return Param(None, type=kind, minimum=32, maximum=2048, section="Network and images", title=title)


def _limit(title: str, description: str) -> Param:
    """What a dataset version must satisfy, 0 to 1."""
    kind = ["null", "number"]
    return Param(None, type=kind, minimum=0, maximum=1, section="Data", title=title, description=description)
