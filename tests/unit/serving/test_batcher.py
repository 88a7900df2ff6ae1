"""Micro-batching with a hand-written session that shows what it was given and answers when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tire_pipeline.serving.batcher import Batcher, Overloaded
from tire_pipeline.serving.limits import Limits
from tire_pipeline.serving.model import LoadedModel

DEADLINE_S = 10.0


class GatedSession:
    """Doubles its input once the gate is open; `sizes` are the batches it saw."""

    def __init__(self) -> None:
        self.gate, self.started, self.sizes = threading.Event(), threading.Event(), list[int]()

    def probabilities(self, x: Any) -> Any:
        self.started.set()
        assert self.gate.wait(DEADLINE_S)
        self.sizes.append(len(x))
        if (x < 0).any():
            raise RuntimeError("the model broke")
        return 2 * x


def fake_model(session: GatedSession, version: int = 1) -> LoadedModel:
    return LoadedModel(version, cast("Any", SimpleNamespace(digest=str(version))), cast("Any", session))


def rows(*values: float) -> Any:
    return np.array(values, np.float32)[:, None]


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    batcher = Batcher(
        Limits(max_images=8, max_in_flight=12, max_batch=4, max_wait_s=0.5),
        observe_batch=lambda size: None,
        observe_depth=lambda depth: None,
    )
    yield batcher
    batcher.close()


def answer(future: Future[Any]) -> list[float]:
    return cast("list[float]", future.result(DEADLINE_S)[:, 0].tolist())


def test_images_that_wait_together_run_together_and_each_gets_its_own_answer(batcher: Batcher) -> None:
    session = GatedSession()
    model = fake_model(session)
    with batcher.admit(5):
        first = batcher.submit(model, rows(1, 2, 3, 4))
        assert session.started.wait(DEADLINE_S)
        second, third = batcher.submit(model, rows(5, 6)), batcher.submit(model, rows(7))
        session.gate.set()
        assert [answer(f) for f in (first, second, third)] == [[2, 4, 6, 8], [10, 12], [14]]
    assert session.sizes == [4, 3]


def test_no_batch_is_larger_than_the_limit(batcher: Batcher) -> None:
    session = GatedSession()
    model = fake_model(session)
    session.gate.set()
    with batcher.admit(9):
        futures = [batcher.submit(model, rows(i)) for i in range(9)]
        assert [answer(f) for f in futures] == [[2.0 * i] for i in range(9)]
    assert max(session.sizes) <= 4


def test_a_job_larger_than_a_batch_is_run_in_parts_and_answered_whole(batcher: Batcher) -> None:
    session = GatedSession()
    session.gate.set()
    with batcher.admit(10):
        assert answer(batcher.submit(fake_model(session), rows(*range(10)))) == [2.0 * i for i in range(10)]
    assert session.sizes == [4, 4, 2]


def test_a_lone_image_is_not_kept_waiting_for_company(batcher: Batcher) -> None:
    session = GatedSession()
    session.gate.set()
    with batcher.admit(1):
        assert batcher.submit(fake_model(session), rows(1)).result(0.4)  # max_wait_s is 0.5


def test_images_of_two_models_never_share_a_batch(batcher: Batcher) -> None:
    old, new = GatedSession(), GatedSession()
    old_model, new_model = fake_model(old, 1), fake_model(new, 2)
    new.gate.set()
    with batcher.admit(4):
        futures = [batcher.submit(m, rows(i)) for i, m in enumerate([old_model, old_model, new_model, new_model])]
        old.gate.set()
        assert [answer(f) for f in futures] == [[0], [2], [4], [6]]
    assert sum(old.sizes) == 2 and sum(new.sizes) == 2


def test_a_request_over_the_bound_is_refused_whole_and_the_room_is_given_back(batcher: Batcher) -> None:
    with batcher.admit(8):
        with pytest.raises(Overloaded, match="8 images"), batcher.admit(5):
            pass
        with batcher.admit(4):
            assert batcher.full
    assert not batcher.full
    with batcher.admit(12):
        pass


def test_a_model_that_breaks_fails_its_batch_and_the_next_one_runs(batcher: Batcher) -> None:
    session = GatedSession()
    session.gate.set()
    model = fake_model(session)
    with batcher.admit(1):
        with pytest.raises(RuntimeError, match="broke"):
            batcher.submit(model, rows(-1)).result(DEADLINE_S)
        assert answer(batcher.submit(model, rows(3))) == [6]


def test_what_nobody_waits_for_any_more_is_not_run(batcher: Batcher) -> None:
    session = GatedSession()
    model = fake_model(session)
    with batcher.admit(5):
        running = batcher.submit(model, rows(1, 1, 1, 1))
        assert session.started.wait(DEADLINE_S)
        waiting = batcher.submit(model, rows(2))
        assert waiting.cancel()
        session.gate.set()
        assert answer(running) == [2, 2, 2, 2]
    batcher.close()
    assert session.sizes == [4]


def test_closing_answers_everything_submitted_before() -> None:
    batcher = Batcher(Limits(), observe_batch=lambda size: None, observe_depth=lambda depth: None)
    session = GatedSession()
    session.gate.set()
    model = fake_model(session)
    futures = [batcher.submit(model, rows(i)) for i in range(50)]
    batcher.close()
    assert [answer(f) for f in futures] == [[2.0 * i] for i in range(50)]


def test_limits_that_admit_no_full_request_are_refused() -> None:
    with pytest.raises(ValueError, match="never be admitted"):
        Limits(max_images=10, max_in_flight=5)
