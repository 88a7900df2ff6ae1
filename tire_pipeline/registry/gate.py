"""The gate: figures in, a decision with its reasons out. It moves nothing.

A candidate must be good enough by itself, and no version may go into production beside a champion that it does not
beat: on the same test images it must save cost beyond what chance explains, and not lose recall. That two equally good
models change places with at most 5 % probability follows from the test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from scipy.stats import norm

from tire_pipeline.errors import InputError
from tire_pipeline.metrics import LOWER_IS_BETTER, Difference, of_label


@dataclass(frozen=True)
class Gate:
    """What is demanded. A limit that is None is not applied.

    The `metric`'s 95 % interval must lie on the good side of `threshold`. `recall_min`: of the positive class.
    `slice_min`: the accuracy of every slice of `slice_images_min` images or more. `recall_margin`: by how much the
    recall may be lower than the champion's, at the one-sided level `alpha`, which is also the level of being better.
    """

    metric: str = "balanced_accuracy"
    threshold: float | None = 0.75
    recall_min: float | None = None
    slice_min: float | None = 0.5
    slice_images_min: int = 50
    ece_max: float | None = 0.15
    recall_margin: float = 0.02
    alpha: float = 0.05

    def __post_init__(self) -> None:
        shares = {"recall_min": self.recall_min, "slice_min": self.slice_min, "ece_max": self.ece_max}
        shares |= {"recall_margin": self.recall_margin, "alpha": self.alpha}
        if wrong := [f"{k} is {v}" for k, v in shares.items() if v is not None and not 0 <= v <= 1]:
            raise InputError(f"The gate cannot be used: {', '.join(wrong)}, but each is a share between 0 and 1.")


@dataclass(frozen=True)
class Slice:
    """The accuracy on the test images that have one thing in common, such as `camera=left`."""

    name: str
    num_images: int
    accuracy: float


@dataclass(frozen=True)
class Candidate:
    """Figures on the locked test split: `metrics` holds name, name_low and name_high (95 % interval).

    Where images have several `labels`, those names are of all labels together, and `<label>/name` of each.
    `num_positive` is by label, for those that have the positive class; of an only label by "".
    """

    metrics: Mapping[str, float]
    num_images: int
    num_groups: int
    num_positive: Mapping[str, int] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Candidate minus champion on the same test images, and the chance `p`, by `test`, that equal models differ so.

    `cost` is that of the mistakes, an image. `power`: the chance of noticing a model that is right on 5 images more in
    a hundred, where it can be computed: McNemar's test has one, sign flips of groups have none of their own. `recalls`
    are those of the labels that have the positive class, by name.
    """

    num_images: int
    cost_before: float
    cost: Difference
    p: float
    test: str
    power: float | None = None
    recalls: Mapping[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Champion:
    """What serves now. Without a `comparison` it could not be scored on these images, since it does not know the
    `unknown_classes`; `num_learnt` of the test images were among those that it was trained or calibrated on."""

    version: int
    comparison: Comparison | None = None
    unknown_classes: tuple[str, ...] = ()
    num_learnt: int = 0


@dataclass(frozen=True)
class Verdict:
    """One rule, and what it found in words."""

    rule: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Decision:
    """Whether to go on, why in words, and what each rule said."""

    promote: bool
    reason: str
    verdicts: tuple[Verdict, ...] = ()


def reaches(value: float, gate: Gate) -> Decision:
    """Whether one figure passes the absolute threshold. A value that is no number never does."""
    found = f"{_words(gate.metric)} {value:.3f}"
    if gate.threshold is None:
        return Decision(math.isfinite(value), f"{found}, no threshold was given")
    if gate.metric in LOWER_IS_BETTER:
        return Decision(value <= gate.threshold, f"{found}, must not be over {gate.threshold:g}")
    return Decision(value >= gate.threshold, f"{found}, must reach {gate.threshold:g}")


def decide(candidate: Candidate, champion: Champion | None, gate: Gate) -> Decision:
    """Promote a candidate that every rule lets pass; `champion` is what serves now, None where no other model does."""
    verdicts = (*_absolute(candidate, gate), *(_against(champion, gate) if champion else ()))
    if failed := [v for v in verdicts if not v.passed]:
        rules = f"{len(failed)} of {len(verdicts)} rules" if len(verdicts) > 1 else "the rule"
        return Decision(False, f"it fails {rules}: {'; '.join(v.text for v in failed)}", verdicts)
    told = ("metric", "new classes", "cost")
    shown = [v.text for v in verdicts if v.rule in told or v.rule.endswith("against the champion")]
    alone = [] if champion else ["there is no champion to beat"]
    return Decision(True, f"it passes all {len(verdicts)} rules: {'; '.join(shown + alone)}", verdicts)


def _absolute(c: Candidate, gate: Gate) -> Iterator[Verdict]:
    yield _metric(c, gate)
    for label in c.labels:
        if of_label(gate.metric, label) in c.metrics:
            yield _metric(c, gate, label)
    if gate.recall_min is not None:
        yield from _recalls(c, gate.recall_min)
    if gate.slice_min is not None:
        yield _slices(c, gate.slice_min, gate.slice_images_min)
    if gate.ece_max is not None:
        ece = c.metrics.get("ece", math.nan)
        text = f"probabilities are off by {ece:.3f} on average (ECE), must not be over {gate.ece_max:g}"
        yield Verdict("calibration", ece <= gate.ece_max, text)


def _metric(c: Candidate, gate: Gate, label: str = "") -> Verdict:
    """The whole interval must be good enough: a lucky draw of test images is not enough."""
    name = of_label(gate.metric, label)
    value, low, high = (c.metrics.get(name + end, math.nan) for end in ("", "_low", "_high"))
    lower = gate.metric in LOWER_IS_BETTER
    worst = reaches(high if lower else low, gate)
    limit = "no threshold was given" if gate.threshold is None else f"all of it must {_must(gate)}"
    images = f"{c.num_images} test images" + (f" of {c.num_groups} things" if c.num_groups < c.num_images else "")
    text = f"{_words(gate.metric, label)} {value:.3f} [{low:.3f}, {high:.3f}] on {images}, {limit}"
    return Verdict(f"metric of {label}" if label else "metric", worst.promote and math.isfinite(value), text)


def _must(gate: Gate) -> str:
    return f"{'not be over' if gate.metric in LOWER_IS_BETTER else 'reach'} {gate.threshold:g}"


def _recalls(c: Candidate, recall_min: float) -> Iterator[Verdict]:
    """The floor holds for the recall that was found; the text says how many images would prove it."""
    if not c.num_positive:
        text = f"the recall must reach {recall_min:g}, but the model has no positive class (TIRE_POSITIVE_CLASS)"
        yield Verdict("recall", False, text)
    for label, number in c.num_positive.items():
        found = c.metrics.get(of_label("recall", label), math.nan)
        needed = images_to_prove(found, recall_min)
        proof = f"proving it takes {needed} of them" if needed else "no number of them would prove it"
        rule = _words("recall", label)
        text = f"{rule} {found:.3f} on {number} positive images, must reach {recall_min:g} ({proof})"
        yield Verdict(rule, found >= recall_min, text)


def images_to_prove(share: float, floor: float, *, alpha: float = 0.05) -> int | None:
    """How many images it takes until Wilson's one-sided lower bound of this share is over the floor; None: no number
    does, since the share itself is not."""
    if not share > floor:
        return None
    z = float(norm.isf(alpha))
    return math.ceil(z * z * floor * (1 - floor) / (share - floor) ** 2) if floor else 1


def _slices(c: Candidate, floor: float, images_min: int) -> Verdict:
    large = [s for s in c.slices if s.num_images >= images_min]
    low = [s for s in large if not s.accuracy >= floor]
    found = ", ".join(f"{s.name} {s.accuracy:.3f} on {s.num_images}" for s in low)
    text = f"accuracy of every slice of {images_min} images or more must reach {floor:g}"
    return Verdict("slices", not low, f"{text}: {found or f'all {len(large)} do'}")


def _against(champion: Champion, gate: Gate) -> Iterator[Verdict]:
    name = f"the champion (version {champion.version})"
    leak = f"{name} learnt from {champion.num_learnt} of the test images"
    if champion.num_learnt:
        leak += ", so that it cannot be compared fairly; split again with the seed it was trained with"
    yield Verdict("leak", champion.num_learnt == 0, leak)
    if champion.comparison is not None:
        yield from _compared(champion.comparison, name, gate)
    else:
        new = ", ".join(champion.unknown_classes)
        text = f"{name} cannot be compared: it does not know {new}; the rules for the candidate alone decide"
        yield Verdict("new classes", bool(new), text)


def _compared(c: Comparison, name: str, gate: Gate) -> Iterator[Verdict]:
    for recall, change in c.recalls.items():
        found = f"{recall} {change.value:+.3f} against {name}, at worst {change.low:+.3f}"
        kept = change.low >= -gate.recall_margin
        yield Verdict(f"{recall} against the champion", kept, f"{found}, may lose {gate.recall_margin:g}")
    text = (
        f"mistakes cost {c.cost_before + c.cost.value:.3f} an image against {c.cost_before:.3f} of {name} on the same "
        f"{c.num_images} images, difference {c.cost.value:+.3f} [{c.cost.low:+.3f}, {c.cost.high:+.3f}], "
        f"p = {c.p:.3f} ({c.test}), must be under {gate.alpha:g}"
    )
    better = c.p < gate.alpha and c.cost.value < 0
    hint = "" if c.power is None else f"; a gain of 5 points would be noticed here with a chance of {c.power:.0%}"
    yield Verdict("cost", better, text if better else text + hint)


def _words(metric: str, label: str = "") -> str:
    return metric.replace("_", " ") + (f" of {label}" if label else "")
