from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tire_pipeline.errors import InputError
from tire_pipeline.metrics import Difference
from tire_pipeline.registry.gate import (
    Candidate,
    Champion,
    Comparison,
    Decision,
    Gate,
    Slice,
    decide,
    images_to_prove,
    reaches,
)

NAN = math.nan
LOSS = Gate("log_loss", 0.5)
STRICT = Gate(recall_min=0.9, slice_min=0.8, ece_max=0.1)
FIGURES = {
    **{"balanced_accuracy": 0.9, "balanced_accuracy_low": 0.85, "balanced_accuracy_high": 0.95},
    **{"log_loss": 0.3, "log_loss_low": 0.2, "log_loss_high": 0.4, "recall": 0.95, "ece": 0.05},
}
GOOD = Candidate(FIGURES, 300, 300, {"": 150}, (Slice("camera=left", 60, 0.9), Slice("camera=right", 20, 0.1)))
BETTER = Comparison(
    num_images=300,
    cost_before=0.15,
    cost=Difference(-0.05, -0.08, -0.02),
    p=0.01,
    test="McNemar's exact test",
    power=0.7,
    recalls={"recall": Difference(0.02, -0.01, 0.05)},
)
CHAMPION = Champion(3, BETTER)


def measured(**figures: float) -> Candidate:
    return replace(GOOD, metrics={**FIGURES, **figures})


def compared(**changes: Any) -> Champion:
    return replace(CHAMPION, comparison=replace(BETTER, **changes))


def failed(decision: Decision) -> list[str]:
    return [v.rule for v in decision.verdicts if not v.passed]


def test_a_good_candidate_passes_every_rule_beside_a_champion_and_without_one() -> None:
    assert decide(GOOD, None, STRICT).promote
    decision = decide(GOOD, CHAMPION, STRICT)
    assert decision.promote
    assert [v.rule for v in decision.verdicts] == [
        *("metric", "recall", "slices", "calibration", "leak", "recall against the champion", "cost")
    ]


@pytest.mark.parametrize(
    ("rule", "candidate", "champion"),
    [
        ("metric", measured(balanced_accuracy_low=0.74), CHAMPION),
        ("recall", measured(recall=0.899), CHAMPION),
        ("slices", replace(GOOD, slices=(Slice("camera=left", 50, 0.79),)), CHAMPION),
        ("calibration", measured(ece=0.101), CHAMPION),
        ("leak", GOOD, replace(CHAMPION, num_learnt=1)),
        ("recall against the champion", GOOD, compared(recalls={"recall": Difference(0.0, -0.021, 0.02)})),
        ("cost", GOOD, compared(p=0.05)),
        ("cost", GOOD, compared(cost=Difference(0.0, -0.01, 0.01))),
        ("new classes", GOOD, Champion(3)),
    ],
)
def test_each_rule_alone_refuses(rule: str, candidate: Candidate, champion: Champion) -> None:
    decision = decide(candidate, champion, STRICT)
    assert not decision.promote
    assert failed(decision) == [rule]
    (verdict,) = (v for v in decision.verdicts if not v.passed)
    assert verdict.text in decision.reason


@pytest.mark.parametrize(
    ("rule", "candidate", "champion"),
    [
        ("metric", measured(balanced_accuracy_low=NAN), CHAMPION),
        ("metric", measured(balanced_accuracy=NAN), CHAMPION),
        ("recall", measured(recall=NAN), CHAMPION),
        ("slices", replace(GOOD, slices=(Slice("camera=left", 50, NAN),)), CHAMPION),
        ("calibration", measured(ece=NAN), CHAMPION),
        ("recall against the champion", GOOD, compared(recalls={"recall": Difference(NAN, NAN, NAN)})),
        ("cost", GOOD, compared(p=NAN)),
        ("cost", GOOD, compared(cost=Difference(NAN, NAN, NAN))),
    ],
)
def test_what_is_no_number_never_passes(rule: str, candidate: Candidate, champion: Champion) -> None:
    assert failed(decide(candidate, champion, STRICT)) == [rule]


def of_label(label: str, value: float) -> dict[str, float]:
    name = f"{label}/balanced_accuracy"
    return {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.05}


SEVERAL = replace(
    GOOD,
    metrics={**FIGURES, **of_label("condition", 0.9), **of_label("view", 0.9), "condition/recall": 0.95},
    num_positive={"condition": 150},
    labels=("condition", "view"),
)


def test_each_of_several_labels_must_be_good_enough_by_itself() -> None:
    passed = decide(SEVERAL, CHAMPION, STRICT)
    assert passed.promote
    assert [v.rule for v in passed.verdicts][:5] == [
        *("metric", "metric of condition", "metric of view", "recall of condition", "slices")
    ]
    for label in ("condition", "view"):
        worse = replace(SEVERAL, metrics={**SEVERAL.metrics, **of_label(label, 0.79)})
        decision = decide(worse, CHAMPION, STRICT)
        assert failed(decision) == [f"metric of {label}"]
        assert f"balanced accuracy of {label} 0.790 [0.740, 0.840]" in decision.reason


def test_each_label_that_has_the_positive_class_must_find_it() -> None:
    both = replace(SEVERAL, metrics={**SEVERAL.metrics, "view/recall": 0.89}, num_positive={"condition": 9, "view": 50})
    decision = decide(both, None, STRICT)
    assert failed(decision) == ["recall of view"]
    assert "recall of view 0.890 on 50 positive images" in decision.reason
    kept, lost = Difference(0.1, 0.05, 0.15), Difference(-0.1, -0.15, -0.05)
    beside = compared(recalls={"recall of condition": kept, "recall of view": lost})
    assert failed(decide(replace(both, num_positive={}), beside, Gate())) == ["recall of view against the champion"]


def test_a_floor_of_the_recall_without_a_positive_class_is_refused_with_that_reason() -> None:
    decision = decide(replace(GOOD, num_positive={}), None, STRICT)
    assert failed(decision) == ["recall"]
    assert "the model has no positive class" in decision.reason


def test_the_reason_says_how_many_things_the_images_show() -> None:
    assert "300 test images of 40 things" in decide(replace(GOOD, num_groups=40), None, STRICT).reason


def test_the_bound_of_a_loss_is_the_upper_one() -> None:
    assert decide(GOOD, None, LOSS).promote
    assert failed(decide(measured(log_loss_high=0.51), None, LOSS)) == ["metric"]
    assert decide(measured(log_loss_low=9.0), None, LOSS).promote


def test_limits_that_are_none_are_not_applied() -> None:
    bare = Gate(threshold=None, recall_min=None, slice_min=None, ece_max=None)
    bad = measured(balanced_accuracy=0.1, balanced_accuracy_low=0.0, ece=1.0, recall=0.0)
    assert [v.rule for v in decide(bad, None, bare).verdicts] == ["metric"]
    assert decide(bad, None, bare).promote


def test_a_champion_that_does_not_know_a_new_class_leaves_the_decision_to_the_other_rules() -> None:
    unknowing = Champion(3, unknown_classes=("scratch",))
    decision = decide(GOOD, unknowing, STRICT)
    assert decision.promote
    assert "version 3) cannot be compared: it does not know scratch; the rules for the candidate" in decision.reason
    assert failed(decide(measured(recall=0.5), unknowing, STRICT)) == ["recall"]


@pytest.mark.parametrize(
    ("value", "gate", "promote"),
    [
        (0.75, Gate(), True),
        (0.7499, Gate(), False),
        (0.5, LOSS, True),
        (0.5001, LOSS, False),
        (-5.0, Gate(threshold=None), True),
        (NAN, Gate(), False),
        (NAN, LOSS, False),
        (NAN, Gate(threshold=None), False),
        (NAN, Gate(threshold=NAN), False),
    ],
)
def test_a_figure_reaches_its_threshold_or_not(value: float, gate: Gate, promote: bool) -> None:
    assert reaches(value, gate).promote is promote


def test_the_reasons_have_the_figures_that_decided() -> None:
    assert decide(measured(recall=0.7), CHAMPION, STRICT).reason == (
        "it fails 1 of 7 rules: recall 0.700 on 150 positive images, must reach 0.9 (no number of them would prove it)"
    )
    assert decide(GOOD, None, Gate()).reason == (
        "it passes all 3 rules: balanced accuracy 0.900 [0.850, 0.950] on 300 test images, all of it must reach 0.75; "
        "there is no champion to beat"
    )
    assert decide(GOOD, compared(p=0.2), Gate()).reason == (
        "it fails 1 of 6 rules: mistakes cost 0.100 an image against 0.150 of the champion (version 3) on the same "
        "300 images, difference -0.050 [-0.080, -0.020], p = 0.200 (McNemar's exact test), must be under 0.05; a gain "
        "of 5 points would be noticed here with a chance of 70%"
    )
    assert decide(GOOD, compared(p=0.2, power=None), Gate()).reason.endswith("must be under 0.05")
    assert "learnt from 4 of the test images" in decide(GOOD, replace(CHAMPION, num_learnt=4), Gate()).reason


@pytest.mark.parametrize(("share", "floor", "needed"), [(1.0, 0.98, 133), (0.99, 0.98, 531), (0.98, 0.98, None)])
def test_the_number_of_images_that_proves_a_floor(share: float, floor: float, needed: int | None) -> None:
    assert images_to_prove(share, floor) == needed


@pytest.mark.parametrize("field", ["recall_min", "slice_min", "ece_max", "recall_margin", "alpha"])
def test_a_limit_that_is_no_share_is_refused(field: str) -> None:
    with pytest.raises(InputError, match=f"{field} is 2"):
        Gate(**{field: 2})
