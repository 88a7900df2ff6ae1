"""The model card: what a model is for, how good it is, where it is not, and where it comes from (Mitchell et al.,
Model Cards for Model Reporting, FAT* 2019). Markdown for repositories, HTML for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from jinja2 import Environment

SIDES = {
    "train": "the weights were fitted on them",
    "val": "epoch, temperature, threshold and review band were chosen on them",
    "test": "nothing was fitted or chosen on them; the figures are of them",
}


@dataclass(frozen=True)
class Card:
    """What the record of an evaluation does not say. `sides`: how many images each has, `answered`: how many of
    them are in predictions.parquet; `lineage`: digests by name."""

    project: str
    candidate: str
    classes: tuple[str, ...]
    sides: Mapping[str, int]
    lineage: Mapping[str, str]
    answered: Mapping[str, int] = field(default_factory=dict)

    @property
    def unanswered(self) -> str:
        """What predictions.parquet and the lists of mistakes leave out, in words."""
        cut = [
            f"the first {n} of {self.sides[side]} {side}" for side, n in self.answered.items() if n < self.sides[side]
        ]
        return f"Answers and mistakes are listed for {', '.join(cut)} images." if cut else ""

    @property
    def use(self) -> str:
        told = " from ".join(self.classes) if len(self.classes) == 2 else f"apart {', '.join(self.classes)}"
        return (
            f"Tells {told} on photographs taken like those it was trained on. It is no measuring instrument, it knows "
            "no other classes, and pictures of other things get one of these classes too."
        )


def as_markdown(card: Card, record: Mapping[str, Any]) -> str:
    """`record` is `report.measure`'s."""
    one_cell = Environment(autoescape=False, lstrip_blocks=True, finalize=_cell)  # noqa: S701  (no HTML)
    return _render("card.md.j2", one_cell, card, record)


def as_html(card: Card, record: Mapping[str, Any]) -> str:
    """One page that opens offline."""
    return _render("card.html", Environment(autoescape=True, lstrip_blocks=True), card, record)


def _render(name: str, environment: Environment, card: Card, record: Mapping[str, Any]) -> str:
    environment.filters |= {"number": _number, "words": _words}
    template = (files("tire_pipeline.evaluation") / name).read_text(encoding="utf-8")
    return environment.from_string(template).render(
        c=card, r=record, sides=SIDES, deciding=list(_deciding(record)), limits=list(_limits(record))
    )


def _words(name: str) -> str:
    known = {"auroc": "AUROC", "auprc": "AUPRC", "ece": "ECE", "cost": "cost an image", "brier": "Brier score"}
    label, _, metric = name.rpartition("/")
    return known.get(metric, metric.replace("_", " ").replace("f1", "F1")) + (f" of {label}" if label else "")


def _cell(value: object) -> object:
    """A value that stays inside its cell of a Markdown table."""
    return value.replace("|", "\\|").replace("\n", " ") if isinstance(value, str) else value


def _number(value: float | None) -> str:
    return "not known" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _deciding(record: Mapping[str, Any]) -> Iterator[str]:
    at, positive = record["operating_point"], record["positive_class"]
    low, high = at["review_band"]
    yield f"Logits are divided by the temperature {at['temperature']:g}, so that 90 % sure is right in 90 %."
    if positive is None:
        yield f"The most probable class is given; below {high:g} a person is asked to look."
    else:
        yield f"{positive} from a probability of {at['threshold']:g} on; a person looks between {low:g} and {high:g}."
        floor = "no floor of the recall" if at["recall_min"] is None else f"a recall of {at['recall_min']:g} or more"
        costs = f"a miss costs {at['cost_miss']:g} and an alarm {at['cost_alarm']:g}"
        alike = "one class counts as much as the other"
        yield f"Chosen on validation images, where {costs if at['by_cost'] else alike}, with {floor}."
        others = at["num_mistakes"] - at["num_missed"] - at["num_alarms"]
        beside = f", beside {others} of another kind" if others else ""
        yield (
            f"On the test images that is {at['num_missed']} missed, {at['num_missed_not_reviewed']} of them without a "
            f"person's look, and {at['num_alarms']} false alarms{beside}; a person looks at {at['num_reviewed']} of "
            f"{record['num_images']}."
        )
        for label, (num_missed, num_alarms) in at["by_label"].items():
            yield f"Of {label} alone that is {num_missed} missed and {num_alarms} false alarms."
    yield f"An image takes {record['ms_per_image']:.1f} ms here, decoding not counted."


def _limits(record: Mapping[str, Any]) -> Iterator[str]:
    """What the figures do not prove, and where they are low."""
    metrics = record["metrics"]
    width = metrics["balanced_accuracy_high"] - metrics["balanced_accuracy_low"]
    yield f"The balanced accuracy is known to within {width:.3f}; differences smaller than that are not."
    for k in record["per_class"]:
        if k["num_images"] < 50:
            low = f"its recall may be as low as {k['recall_low']:.2f}"
            yield f"Only {k['num_images']} test images are {k['class']}: {low}."
    worst = min((s for s in record["slices"] if not s["small"]), key=lambda s: s["accuracy"], default=None)
    if worst is not None:
        yield f"It is worst on {worst['name']}: accuracy {worst['accuracy']:.3f} on {worst['num_images']} images."
    if few := [s["name"] for s in record["slices"] if s["small"]]:
        yield f"Too few images to tell: {', '.join(few)}."
    if not record.get("robustness"):
        yield "It was not tried under blur, little light, noise, compression or a turn (tire evaluate RUN --robust)."
    yield "The test images were taken in the same time and place as the others: another line may be harder."
