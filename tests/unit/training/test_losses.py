from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.losses import balanced_weights, make_loss, make_mixing, soft_f1

CONFIG = TrainingConfig.of("cnn", label_smoothing=0.1)
CPU = torch.device("cpu")
LOGITS_BK = torch.tensor([[2.0, -1.0, 0.0], [0.0, 0.5, 0.2], [-1.0, 0.0, 3.0], [0.3, 0.2, 0.1]])
Y_B = torch.tensor([0, 1, 2, 2])
LABELS_N = np.array([0] * 8 + [1] * 1 + [2] * 3)


def loss_of(config: TrainingConfig, y: torch.Tensor = Y_B, logits_BK: torch.Tensor = LOGITS_BK) -> float:
    return make_loss(config, labels_N=LABELS_N, num_classes=3, device=CPU)(logits_BK, y).item()


def test_cross_entropy_is_torchs_own_sum() -> None:
    assert loss_of(CONFIG) == pytest.approx(
        F.cross_entropy(LOGITS_BK, Y_B, label_smoothing=0.1, reduction="sum").item()
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_a_batch_is_the_sum_of_its_parts(loss: str, class_weights: str) -> None:
    config = replace(CONFIG, loss=loss, class_weights=class_weights)
    parts = [loss_of(config, Y_B[i : i + 2], LOGITS_BK[i : i + 2]) for i in (0, 2)]
    assert loss_of(config) == pytest.approx(sum(parts), rel=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "f1"])
def test_classes_and_their_certain_shares_are_the_same_to_every_loss(loss: str) -> None:
    config = replace(CONFIG, loss=loss)
    assert loss_of(config, F.one_hot(Y_B, 3).float()) == pytest.approx(loss_of(config), rel=1e-5)


def test_balanced_weights_make_every_class_count_the_same_and_leave_the_mean_at_one() -> None:
    weights_K = balanced_weights(LABELS_N, 3)
    totals = weights_K * np.bincount(LABELS_N)
    assert totals == pytest.approx([4, 4, 4])
    assert weights_K[LABELS_N].mean() == pytest.approx(1)
    assert balanced_weights(np.array([0, 0, 2]), 3).tolist() == [0.75, 0.0, 1.5]


def test_focal_loss_is_cross_entropy_times_its_factor() -> None:
    p_B = LOGITS_BK.softmax(dim=1)[torch.arange(4), Y_B]
    plain = replace(CONFIG, label_smoothing=0.0)
    expected = (-(p_B.log()) * (1 - p_B) ** 2).sum()
    assert loss_of(replace(plain, loss="focal")) == pytest.approx(expected.item(), rel=1e-5)


def test_soft_f1_is_one_minus_macro_f1_where_the_model_is_certain() -> None:
    certain_BK = 50 * F.one_hot(torch.tensor([0, 1, 2, 1]), 3).float()
    shares_BK = F.one_hot(Y_B, 3).float()
    f1_macro = (1 + 2 / 3 + 2 / 3) / 3
    assert soft_f1(certain_BK, shares_BK).item() == pytest.approx(4 * (1 - f1_macro), abs=1e-5)
    assert soft_f1(50 * shares_BK, shares_BK).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("mixing", ["mixup", "cutmix", "both"])
def test_mixed_images_have_the_shares_of_their_classes(mixing: str) -> None:
    mix = make_mixing(replace(CONFIG, mixing=mixing, mixing_alpha=1.0), num_classes=3)
    assert mix is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x_BCHW = Y_B.float()[:, None, None, None].expand(4, 3, 16, 16).clone()
        mixed_BCHW, shares_BK = mix(x_BCHW, Y_B)
    assert shares_BK.sum(dim=1) == pytest.approx(torch.ones(4))
    expected_B = shares_BK @ torch.arange(3.0)  # the pixels are the class, so their mean is the mean class
    assert mixed_BCHW.mean(dim=(1, 2, 3)) == pytest.approx(expected_B, abs=1e-5)
    assert not torch.equal(mixed_BCHW, x_BCHW)


def test_nothing_is_mixed_unless_asked_for() -> None:
    assert make_mixing(CONFIG, num_classes=3) is None
