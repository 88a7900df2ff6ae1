import math

import pytest

from tire_pipeline.registry.gate import Comparison, Gate, decide, reaches

NAN = math.nan
LOSS = Gate("log_loss", 0.5)


def against(difference: float) -> Comparison:
    return Comparison(3, 0.8, difference, difference - 0.05, difference + 0.05, 160)


@pytest.mark.parametrize(
    ("value", "gate", "promote"),
    [
        (0.75, Gate(), True),
        (0.7499, Gate(), False),
        (0.5, LOSS, True),
        (0.5001, LOSS, False),
        (-5.0, Gate(threshold=None), True),
        (9.9, Gate("log_loss", None), True),
    ],
)
def test_the_threshold_alone_refuses(value: float, gate: Gate, promote: bool) -> None:
    assert reaches(value, gate).promote is promote
    assert decide(value, gate, None).promote is promote


@pytest.mark.parametrize(
    ("gate", "difference", "promote"),
    [(Gate(), 0.0, True), (Gate(), 0.1, True), (Gate(), -1e-6, False), (LOSS, -0.1, True), (LOSS, 1e-6, False)],
)
def test_the_champion_alone_refuses_a_worse_candidate(gate: Gate, difference: float, promote: bool) -> None:
    value = 0.9 if gate.metric != "log_loss" else 0.1
    assert decide(value, gate, against(difference)).promote is promote


def test_a_candidate_below_the_threshold_is_refused_even_if_it_beats_the_champion() -> None:
    assert not decide(0.7, Gate(), against(0.2)).promote


@pytest.mark.parametrize("gate", [Gate(), LOSS, Gate(threshold=None), Gate(threshold=NAN), Gate("log_loss", None)])
def test_a_value_that_is_no_number_never_passes(gate: Gate) -> None:
    assert not reaches(NAN, gate).promote
    assert not decide(NAN, gate, None).promote
    assert not decide(NAN, gate, against(0.1)).promote


@pytest.mark.parametrize("gate", [Gate(), LOSS])
def test_a_comparison_that_is_no_number_never_passes(gate: Gate) -> None:
    assert not decide(0.9 if gate is not LOSS else 0.1, gate, against(NAN)).promote


def test_the_reason_has_the_figures_that_decided() -> None:
    assert decide(0.7, Gate(), None).reason == ("it fails the threshold (balanced accuracy 0.700, must reach 0.75)")
    assert "log loss 0.600, must not be over 0.5" in decide(0.6, LOSS, None).reason
    assert decide(0.9, Gate(), against(-0.02)).reason == (
        "it is not as good as the champion: balanced accuracy 0.900 against 0.800 of the champion (version 3) on the "
        "same 160 test images, difference -0.020 [-0.070, +0.030]"
    )
    assert decide(0.9, Gate(), against(0.02)).reason.startswith("it is at least as good as the champion: ")
