from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tire_pipeline.metrics import names
from tire_pipeline.training.config import TrainingConfig
from tire_pipeline.training.optimization import OPTIMIZERS as MADE
from tire_pipeline.training.optimization import advance, make_ema, make_optimizer, make_schedule, rate_factor
from tire_pipeline.training.options import MONITORS, OPTIMIZERS

CONFIG = TrainingConfig.of("cnn", learning_rate=0.01)


def rates(
    config: TrainingConfig, *, epochs: int = 4, steps: int = 5, metrics: list[float] | None = None
) -> list[float]:
    """The rate of every step."""
    optimizer = make_optimizer(list(nn.Linear(2, 2).parameters()), config, rate=config.learning_rate)
    schedule = make_schedule(optimizer, config, epochs=epochs, steps_per_epoch=steps)
    seen = []
    for epoch in range(epochs):
        for _ in range(steps):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            advance(schedule)
        advance(schedule, epoch_metric=metrics[epoch] if metrics else 0.0)
    return seen


def test_every_optimizer_that_can_be_asked_for_is_made_and_every_monitored_metric_is_measured() -> None:
    assert set(MADE) == set(OPTIMIZERS)
    assert set(MONITORS) == set(names(has_positive=False))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_only_matrices_decay(kind: str) -> None:
    layer = nn.Linear(3, 2)
    optimizer = make_optimizer(list(layer.parameters()), replace(CONFIG, optimizer_type=kind), rate=0.1)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(layer.weight): CONFIG.weight_decay, id(layer.bias): 0.0}


def test_one_cycle_rises_for_a_fifth_of_the_steps_and_falls_to_nothing() -> None:
    seen = rates(CONFIG, epochs=4, steps=25)
    assert seen.index(max(seen)) == pytest.approx(20, abs=1)
    assert max(seen) == pytest.approx(0.01, rel=0.01)
    assert seen[-1] < 1e-6


@pytest.mark.parametrize("steps", range(1, 12))
def test_one_cycle_is_made_of_any_number_of_steps(steps: int) -> None:
    assert 0 < max(rates(CONFIG, epochs=1, steps=steps)) <= 0.01


def test_cosine_warms_up_in_a_straight_line_and_falls_as_the_paper_has_it() -> None:
    seen = rates(replace(CONFIG, scheduler="cosine", warmup_epochs=1))
    assert seen[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert seen[5] == pytest.approx(0.01)
    assert seen[10] == pytest.approx(0.01 * 0.75)  # a third of the way: (1 + cos 60°) / 2
    assert seen == sorted(seen[:6]) + sorted(seen[6:], reverse=True)


def test_step_falls_by_its_factor_every_so_many_epochs() -> None:
    seen = rates(replace(CONFIG, scheduler="step", step_epochs=2, step_factor=0.1))
    assert seen == pytest.approx([0.01] * 10 + [0.001] * 10)


def test_constant_stays_at_its_rate_after_the_warm_up() -> None:
    seen = rates(replace(CONFIG, scheduler="constant", warmup_epochs=1))
    assert seen[4:] == pytest.approx([0.01] * 16)


@pytest.mark.parametrize(
    ("monitor", "metrics"), [("log_loss", [0.5, 0.6, 0.7, 0.8]), ("accuracy", [0.8, 0.7, 0.6, 0.5])]
)
def test_plateau_falls_when_the_monitored_metric_got_no_better(monitor: str, metrics: list[float]) -> None:
    config = replace(CONFIG, scheduler="plateau", step_epochs=1, step_factor=0.5, monitor=monitor)
    assert rates(config, metrics=metrics) == pytest.approx([0.01] * 15 + [0.005] * 5)
    assert rates(config, metrics=metrics[::-1]) == pytest.approx([0.01] * 20)


def test_no_rate_is_above_the_highest_or_below_nothing() -> None:
    for scheduler in ("cosine", "step", "constant"):
        config = replace(CONFIG, scheduler=scheduler, warmup_epochs=2)
        assert all(0 <= rate_factor(s, config, epochs=5, steps_per_epoch=3) <= 1 for s in range(40))


def test_the_running_mean_of_weights_is_the_one_of_its_formula() -> None:
    layer = nn.Linear(1, 1, bias=False)
    ema = make_ema(layer, replace(CONFIG, ema_decay=0.9))
    assert ema is not None
    expected = None
    for value in (1.0, 2.0, 4.0):
        with torch.no_grad():
            layer.weight.fill_(value)
        ema.update_parameters(layer)
        expected = value if expected is None else 0.9 * expected + 0.1 * value
    assert ema.module.weight.item() == pytest.approx(expected)
    assert make_ema(layer, CONFIG) is None
