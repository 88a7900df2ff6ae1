"""What a person would rather look at than read: confusion, PR and ROC, reliability, learning curves, worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib.figure import Figure

from tire_pipeline import metrics
from tire_pipeline.evaluation.answers import Answers
from tire_pipeline.imaging import Pixels
from tire_pipeline.metrics import Ints, Scored

mpl.rcParams["text.parse_math"] = False  # a class may be called $5
INK, ACCENT, BAD = "#22303c", "#2f6fb0", "#c0392b"
COLUMNS = 6


def draw_all(answers: Answers, classes: list[str], folder: Path, *, positive_class: str | None) -> None:
    """Write every picture of an evaluation into `folder`."""
    confusion(answers.scored, classes).savefig(folder / "confusion_matrix.png")
    reliability(answers.scored).savefig(folder / "reliability.png")
    worst_mistakes(answers, classes).savefig(folder / "worst_mistakes.png")
    if positive_class is not None:
        curves(answers.scored, positive_class).savefig(folder / "pr_roc.png")


def confusion(s: Scored, classes: list[str]) -> Figure:
    """Counts of true class (rows) against predicted class (columns), shaded by the share of the row."""
    k = len(classes)
    counts_KK = metrics.confusion(s)
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure("Confusion on the test split", width=2.6 + 0.9 * k, height=2.0 + 0.8 * k)
    axes.imshow(share_KK, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(k, k):
        colour = "white" if share_KK[i, j] > 0.55 else INK
        axes.text(j, i, f"{counts_KK[i, j]}\n{share_KK[i, j]:.0%}", ha="center", va="center", color=colour)
    axes.set(xticks=range(k), yticks=range(k), xlabel="predicted", ylabel="true")
    axes.set_xticklabels(classes)
    axes.set_yticklabels(classes)
    return figure


def reliability(s: Scored, bins: int = 10) -> Figure:
    """Accuracy against confidence in equal bins; the dots' area is the number of images."""
    confidence, correct = s.p_NK.max(axis=1), s.p_NK.argmax(axis=1) == s.y_N
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    seen = np.unique(which)
    figure, axes = _figure("Reliability: is 90 % sure right in 90 %?")
    axes.plot([0, 1], [0, 1], color="#aab4bd", linewidth=1, linestyle="--")
    x, y = [confidence[which == b].mean() for b in seen], [correct[which == b].mean() for b in seen]
    axes.plot(x, y, color=ACCENT, linewidth=1)
    axes.scatter(x, y, s=[20 + 3 * int(np.sum(which == b)) for b in seen], color=ACCENT, alpha=0.8)
    low = min(0.45, *x) - 0.05
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(low, 1.02), ylim=(min(low, *y) - 0.02, 1.04))
    return figure


def curves(s: Scored, positive: str) -> Figure:
    """Precision over recall and true over false positive rate of the positive class."""
    truth = s.truth[np.argsort(-s.score, kind="stable")]
    hits, alarms = np.cumsum(truth), np.cumsum(~truth)
    figure = Figure(figsize=(8.4, 3.9), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    left.plot(hits / max(hits[-1], 1), hits / (hits + alarms), color=ACCENT)
    left.set(title=f"Precision and recall of “{positive}”", xlabel="recall", ylabel="precision")
    right.plot(alarms / max(alarms[-1], 1), hits / max(hits[-1], 1), color=ACCENT)
    right.plot([0, 1], [0, 1], color="#aab4bd", linewidth=1, linestyle="--")
    right.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
    for axes in (left, right):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
        _quiet(axes)
    return figure


def worst_mistakes(answers: Answers, classes: list[str], limit: int = 24) -> Figure:
    """The wrong answers, most confident first, with true class, given class and its probability."""
    wrong = worst(answers.scored)[:limit]
    pictures = [[answers.picture(i)] for i in wrong]
    return _mistakes(answers.scored, classes, wrong, pictures)


def mistakes_with_maps(answers: Answers, classes: list[str], maps: Sequence[Pixels]) -> Figure:
    """The worst mistakes beside `maps` of where the network looked, one for each of the first of them."""
    wrong = worst(answers.scored)[: len(maps)]
    pictures = [[answers.picture(i), shown] for i, shown in zip(wrong, maps, strict=True)]
    return _mistakes(answers.scored, classes, wrong, pictures)


def worst(s: Scored) -> Ints:
    """The rows of the wrong answers, from that which gave the truth the least probability."""
    wrong = np.flatnonzero(~s.correct)
    return np.asarray(wrong[np.argsort(s.p_NK[wrong, s.y_N[wrong]], kind="stable")])


def _mistakes(s: Scored, classes: list[str], wrong: Ints, pictures: Sequence[Sequence[Pixels]]) -> Figure:
    """A cell for each mistake, with its one or two pictures side by side."""
    wide = max((len(p) for p in pictures), default=1)
    columns = COLUMNS // wide
    rows = max(1, -(-len(wrong) // columns))
    figure = Figure(figsize=(1.75 * COLUMNS, 2.15 * rows + 0.4), layout="constrained", dpi=100)
    figure.suptitle(f"{int(np.sum(~s.correct))} mistakes of {len(s.y_N)}, the worst first", fontsize=11)
    cells = figure.subplots(rows, columns * wide, squeeze=False).reshape(-1, wide)
    for axes in cells.ravel():
        axes.axis("off")
    for i, own, cell in zip(wrong, pictures, cells, strict=False):
        for axes, pixels in zip(cell, own, strict=True):
            axes.imshow(pixels)
        p = s.p_NK[i, s.predicted_N[i]]
        text = f"{classes[s.y_N[i]]}\nas {classes[s.predicted_N[i]]} {p:.0%}"
        cell[0].set_title(text, fontsize=8, color=BAD)
    return figure


def learning_curves(history: Sequence[dict[str, float]], best_epoch: int) -> Figure:
    """Loss of training and validation, and balanced accuracy, by epoch; the kept epoch is marked."""
    epochs = range(1, len(history) + 1)
    figure = Figure(figsize=(8.4, 3.6), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [h["train/loss"] for h in history], color="#8fa3b5", label="training")
    left.plot(epochs, [h["val/loss"] for h in history], color=ACCENT, label="validation")
    left.set(title="Loss", xlabel="epoch")
    right.plot(epochs, [h["val/balanced_accuracy"] for h in history], color=ACCENT)
    right.set(title="Balanced accuracy on validation", xlabel="epoch", ylim=(0.3, 1.02))
    for axes in (left, right):
        axes.axvline(best_epoch + 1, color=BAD, linewidth=1, linestyle=":", label="kept")
        _quiet(axes)
    left.legend(frameon=False)
    return figure


def _figure(title: str, *, width: float = 5.0, height: float = 4.2) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    axes = figure.subplots()
    axes.set_title(title, fontsize=11, color=INK)
    _quiet(axes)
    return figure, axes


def _quiet(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
