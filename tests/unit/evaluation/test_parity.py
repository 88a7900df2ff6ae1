from __future__ import annotations

import numpy as np
import pytest

from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import GateRefused
from tire_pipeline.evaluation.parity import ParityLimits, check, compare

P = np.array([[0.7, 0.3], [0.3, 0.7], [0.62, 0.38]], np.float32)


def shifted(by: float, row: int) -> np.ndarray:
    other = P.copy()
    other[row] += np.array([-by, by], np.float32)
    return other


def test_equal_answers_are_no_distance_apart(bundle: Bundle) -> None:
    found = compare("a and b", bundle, P, P.copy())
    assert (found.num_images, found.max_difference, found.num_flips) == (3, 0.0, 0)
    check(found, ParityLimits(difference_max=0.0))


@pytest.mark.parametrize(
    ("other", "limits", "said"),
    [
        (shifted(0.001, 1), ParityLimits(), r"up to 1\.00e-03 in a probability and in 0 of 3 decisions"),
        (shifted(0.03, 2), ParityLimits(difference_max=1.0), "in 1 of 3 decisions; at most 1e\\+00 and 0 are allowed"),
        (np.full_like(P, np.nan), ParityLimits(difference_max=1.0, flips_max=9), "up to inf in a probability"),
    ],
)
def test_each_limit_alone_refuses(bundle: Bundle, other: np.ndarray, limits: ParityLimits, said: str) -> None:
    with pytest.raises(GateRefused, match=said):
        check(compare("a and b", bundle, P, other), limits)


def test_the_limits_can_be_moved(bundle: Bundle) -> None:
    check(compare("a and b", bundle, P, shifted(0.03, 2)), ParityLimits(difference_max=0.05, flips_max=1))
