"""A challenger beside the champion: what is logged of it, what it may answer, and when it may no longer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tire_pipeline.bundle import Bundle
from tire_pipeline.serving.app import create_app
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel, ModelSlot, load_model
from tire_pipeline.serving.trial import Trial, TrialLimits, judge

DEADLINE_S = 20.0
MakeBundle = Callable[..., Bundle]
FINE: dict[str, Any] = {
    "failed": [False] * 100,
    "seconds": [0.01] * 100,
    "champion_seconds": [0.01] * 100,
    "different": [False] * 100,
}


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, None),
        ({"failed": [False] * 97 + [True] * 3}, "errors"),
        ({"failed": [False] * 98 + [True] * 2}, None),
        ({"different": [False] * 89 + [True] * 11}, "disagreement"),
        ({"different": [False] * 90 + [True] * 10}, None),
        ({"seconds": [0.05] * 100}, "latency"),
        ({"seconds": [0.039] * 100}, None),
        ({"seconds": [0.01] * 96 + [9.0] * 4}, None),
    ],
)
def test_each_limit_alone_sends_a_challenger_back(changes: dict[str, Any], limit: str | None) -> None:
    verdict = judge(**FINE | changes, limits=TrialLimits())
    assert (verdict and verdict.limit) == limit


@pytest.mark.parametrize("name", ["failed", "different", "seconds"])
def test_nobody_is_judged_by_a_handful_of_answers(name: str) -> None:
    bad = {"failed": [True] * 49, "different": [True] * 49, "seconds": [9.0] * 49}
    assert judge(**FINE | {name: bad[name]}, limits=TrialLimits()) is None


@dataclass
class World:
    """A server with a champion, version 1, and a challenger, version 2."""

    client: httpx.Client
    trial: Trial
    champion: LoadedModel
    challenger: LoadedModel
    metrics: ServingMetrics

    def ask(self, picture: bytes, times: int) -> Counter[int]:
        answers = [self.client.post("/predict", files=[("images", ("a.png", picture))]) for _ in range(times)]
        assert {answer.status_code for answer in answers} == {200}
        return Counter(answer.json()["predictions"][0]["model_version"] for answer in answers)

    def outcomes(self) -> dict[str, float]:
        found = {s.labels["outcome"]: s.value for m in [self.metrics.shadow] for s in _samples(m)}
        return {name: value for name, value in found.items() if value}

    def facts(self) -> dict[str, Any]:
        return self.client.get("/model").json()["challenger"]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, self.outcomes()
            threading.Event().wait(0.01)


def _samples(metric: Any) -> list[Any]:
    return [s for family in metric.collect() for s in family.samples if s.name.endswith("_total")]


@pytest.fixture
def world(make_bundle: MakeBundle, serve: Callable[..., httpx.Client], tmp_path: Path) -> Callable[..., World]:
    def make(*, weight: float = 0.0, gain: float = 1.2, session: Any = None, size: int = 16, **limits: Any) -> World:
        metrics = ServingMetrics()
        slot = ModelSlot("tire-defect", metrics)
        champion = replace(load_model(make_bundle(f"champion{gain}{size}").path), version=1)
        challenger = replace(load_model(make_bundle(f"challenger{gain}{size}", gain=gain, size=size).path), version=2)
        challenger = replace(challenger, session=session or challenger.session)
        slot.swap(champion)
        trial = Trial(
            ModelSlot("tire-defect", metrics, info=metrics.challenger),
            metrics=metrics,
            weight=weight,
            limits=TrialLimits(num_min=10, **limits),
            note=tmp_path / "serving" / "returned.json",
        )
        trial.slot.swap(challenger)
        client = serve(create_app(slot, metrics=metrics, trial=trial))
        return World(client, trial, champion, challenger, metrics)

    return make


@pytest.mark.parametrize("size", [16, 12])
def test_a_challenger_in_the_shadow_answers_nobody_and_its_agreement_is_counted(
    world: Callable[..., World], red_png: bytes, size: int
) -> None:
    there = world(size=size)
    assert there.ask(red_png, 20) == {1: 20}
    there.wait_for(lambda: there.outcomes() == {"same": 20.0})
    facts = there.facts()
    assert (facts["version"], facts["compared"], facts["different"], facts["weight"]) == (2, 20, 0, 0.0)
    text = there.client.get("/metrics").text
    assert f'challenger_info{{candidate="tiny",digest="{facts["digest"]}"' in text
    assert "shadow_difference_count 20.0" in text and "shadow_duration_seconds_count 20.0" in text


def test_what_it_would_decide_otherwise_is_counted_and_logged_by_prediction(
    world: Callable[..., World], red_png: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tire_pipeline.serving.shadow")
    there = world(gain=-1.0)
    there.ask(red_png, 3)
    there.wait_for(lambda: there.outcomes() == {"different": 3.0})
    assert caplog.text.count("version 1 decided defective, version 2 would decide good") == 3


class Breaking:
    """A session that fails as long as it is told to."""

    def __init__(self, error: Exception | float | None = None) -> None:
        self.error = error

    def probabilities(self, x_BCHW: Any) -> Any:
        if isinstance(self.error, Exception):
            raise self.error
        return np.full((len(x_BCHW), 2), self.error, np.float32)


@pytest.mark.parametrize("error", [RuntimeError("broken"), float("nan")])
def test_a_challenger_that_breaks_in_the_shadow_disturbs_nobody(
    world: Callable[..., World], red_png: bytes, error: Any
) -> None:
    there = world(session=Breaking(error))
    assert there.ask(red_png, 5) == {1: 5}
    there.wait_for(lambda: there.outcomes() == {"failed": 5.0})


def test_a_canary_answers_exactly_its_share_and_the_champion_is_compared_with_it(
    world: Callable[..., World], red_png: bytes
) -> None:
    there = world(weight=0.25)
    assert there.ask(red_png, 40) == {1: 30, 2: 10}
    there.wait_for(lambda: there.outcomes() == {"same": 40.0})
    assert there.facts()["returned"] == "" and there.facts()["weight"] == 0.25
    assert 'inference_requests_total{code="200",version="2"} 10.0' in there.client.get("/metrics").text


def test_a_canary_that_fails_costs_no_request_and_is_sent_back(world: Callable[..., World], red_png: bytes) -> None:
    there = world(weight=0.5, session=Breaking(RuntimeError("broken")))
    assert there.ask(red_png, 24) == {1: 24}
    assert there.facts()["returned"].startswith("100.0% of its ") and there.facts()["weight"] == 0
    text = there.client.get("/metrics").text
    assert 'canary_returned_total{limit="errors",version="2"} 1.0' in text and "canary_weight 0.0" in text


def test_a_canary_that_disagrees_is_sent_back(world: Callable[..., World], red_png: bytes) -> None:
    there = world(weight=0.5, gain=-1.0)
    there.ask(red_png, 20)
    there.wait_for(lambda: there.facts()["returned"] != "")
    assert "decided otherwise" in there.facts()["returned"]
    assert there.ask(red_png, 10) == {1: 10}


class Slow:
    def __init__(self, session: Any, seconds: float) -> None:
        self.session, self.seconds = session, seconds

    def probabilities(self, x_BCHW: Any) -> Any:
        time.sleep(self.seconds)
        return self.session.probabilities(x_BCHW)


def test_a_canary_that_is_slow_is_sent_back(world: Callable[..., World]) -> None:
    there = world(weight=0.5)
    assert there.trial.challenger(there.champion)
    for _ in range(9):
        there.trial.answered(there.champion, seconds=0.01)
        there.trial.answered(there.challenger, seconds=0.5)
    assert there.facts()["returned"] == ""
    there.trial.answered(there.champion, seconds=0.01)
    there.trial.answered(there.challenger, seconds=0.5)
    assert "Its 95th percentile is 500 ms, the champion's 10 ms" in there.facts()["returned"]


def test_a_canary_that_hangs_counts_as_failed_and_the_champion_answers(
    world: Callable[..., World], red_png: bytes, make_bundle: MakeBundle
) -> None:
    hanging = world(weight=0.5, session=Slow(load_model(make_bundle("slow").path).session, 0.3), timeout_s=0.05)
    assert hanging.ask(red_png, 22) == {1: 22}
    assert "failed" in hanging.facts()["returned"]


def test_the_time_of_a_challenger_that_failed_is_not_the_champions(
    world: Callable[..., World], red_png: bytes, make_bundle: MakeBundle
) -> None:
    hanging = world(weight=0.5, session=Slow(load_model(make_bundle("slow").path).session, 1.0), timeout_s=0.5)
    assert hanging.ask(red_png, 4) == {1: 4}
    assert len(hanging.trial._champion_seconds) == 4
    assert max(hanging.trial._champion_seconds) < 0.45 < min(hanging.trial._seconds)  # clocks differ by a tick


def test_a_challenger_whose_answers_nobody_has_compared_is_given_no_more_of_them(
    world: Callable[..., World], red_png: bytes
) -> None:
    """As under steady load, where the shadow has no turn."""
    there = world(weight=0.5)
    assert there.trial.challenger(there.champion) is there.challenger
    given = 0
    for _ in range(100):
        if there.trial.takes_turn():
            given += 1
            there.trial.answered(there.challenger, seconds=0.01)
    assert given == there.trial.limits.num_min
    there.trial.compared(there.challenger, different=False, difference=0.0)
    assert any(there.trial.takes_turn() for _ in range(2))


def test_what_is_no_picture_says_nothing_of_a_challenger(world: Callable[..., World]) -> None:
    there = world(weight=0.5)
    there.client.post("/predict", files=[("images", ("a.png", b"no picture"))] * 4).raise_for_status()
    there.client.post("/predict", files=[("images", ("a.png", b"no picture"))] * 4).raise_for_status()
    assert not there.trial._seconds and not there.trial._champion_seconds


def test_a_challenger_that_was_sent_back_stays_back_after_a_restart_and_the_next_one_has_its_chance(
    world: Callable[..., World], red_png: bytes
) -> None:
    first = world(weight=0.5, session=Breaking(RuntimeError("broken")))
    first.ask(red_png, 24)
    again = Trial(first.trial.slot, metrics=first.metrics, weight=0.5, note=first.trial._note)
    assert again.challenger(first.champion) and again.returned and not any(again.takes_turn() for _ in range(10))
    another = replace(first.challenger, bundle=replace(first.challenger.bundle, digest="f" * 64))
    again.slot.swap(another)
    assert again.challenger(first.champion) is another
    assert not again.returned and sum(again.takes_turn() for _ in range(10)) == 5


def test_the_champion_is_no_challenger_of_its_own(world: Callable[..., World], red_png: bytes) -> None:
    there = world()
    there.trial.slot.swap(there.champion)
    assert there.facts() is None
    there.trial.slot.clear()
    assert there.facts() is None
    assert "challenger_info{" not in there.client.get("/metrics").text
