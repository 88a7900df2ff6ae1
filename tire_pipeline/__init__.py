"""From uploaded photographs to a promoted, served and watched image classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tire_pipeline.serving.predictor import ImageClassifier

__all__ = ["ImageClassifier"]


def __getattr__(name: str) -> Any:
    if name == "ImageClassifier":  # numpy, cv2 and onnxruntime load with the first use
        from tire_pipeline.serving.predictor import ImageClassifier

        return ImageClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
