"""What the check makes of a server's answers; the server is a function here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np
import pytest

from tests.unit.evaluation.conftest import MakeAnswers
from tests.unit.serving.conftest import solid
from tire_pipeline.bundle import Bundle, Session
from tire_pipeline.errors import GateRefused
from tire_pipeline.evaluation import serving_check
from tire_pipeline.evaluation.answers import gated
from tire_pipeline.evaluation.checked_server import Started
from tire_pipeline.evaluation.serving_check import Server, ServingLimits, answers, check_answers, check_load
from tire_pipeline.imaging import decode, encode_png, prepare
from tire_pipeline.input_gate import fit_input_gate
from tire_pipeline.serving.limits import Limits


@dataclass
class Answering:
    """A server's answers to `/predict`: the bundle's own, unless it is told to do otherwise."""

    bundle: Bundle
    off_by: float = 0.0
    off_from: int = 0
    digest: str = ""
    takes_all: bool = False
    grows: bool = False
    growing: threading.Event = field(default_factory=threading.Event)
    seen: threading.Event = field(default_factory=threading.Event)
    requests: list[list[int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        boundary = request.headers["Content-Type"].split("boundary=")[1].encode()
        files = [p.split(b"\r\n\r\n", 1)[1][:-2] for p in request.read().split(b"--" + boundary)[1:-1]]
        with self.lock:
            self.requests.append([len(data) for data in files])
            predictions = [self.answer(data) for data in files]
            if self.grows and len(self.requests) == 5:
                self.growing.set()
                self.seen.wait(5)
                self.growing.clear()
        return httpx.Response(200, json={"predictions": predictions})

    def answer(self, data: bytes) -> dict[str, Any]:
        if data in serving_check.BAD_INPUTS.values() and not self.takes_all:
            return {"error": "This is no picture."}
        is_png = data.startswith(b"\x89PNG") and len(data) > 100
        p_K = np.array([0.5, 0.5])
        if is_png:
            x_BCHW = prepare(decode(data), self.bundle.preprocessing)[None]
            p_K = Session(self.bundle).probabilities(x_BCHW)[0]
        off = self.off_by if len(self.requests) > self.off_from else 0.0
        label, _, decision = self.bundle.decide(p_K)
        return {
            "label": label,
            "decision": decision,
            "probabilities": dict(zip(self.bundle.classes, (p_K + np.array([off, -off])).tolist(), strict=True)),
            "model_digest": self.digest or self.bundle.digest,
        }

    def memory_bytes(self) -> int:
        if not self.growing.is_set():
            return 50_000_000
        self.seen.set()
        return 3_000_000_000

    def server(self) -> Server:
        client = httpx.Client(transport=httpx.MockTransport(self), base_url="http://server")
        started = Started("http://server", self.memory_bytes, ended=lambda: "", last_words=lambda: "")
        return Server(client, started, ready_s=0.5)


@pytest.fixture
def golden(bundle: Bundle) -> Bundle:
    pixels = [solid(200, 30), solid(30, 200)]
    x_BCHW = np.stack([prepare(p, bundle.preprocessing) for p in pixels])
    return bundle.with_golden(pixels, Session(bundle).probabilities(x_BCHW)).save()


def test_a_server_that_answers_as_the_bundle_passes(golden: Bundle) -> None:
    server = Answering(golden).server()
    assert check_answers(golden, server)["max_difference"] < 1e-6
    assert check_load(golden, server, ServingLimits(load_requests=8))["memory_mb"] == 50


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"off_by": 0.01}, r"answers its golden images 1\.00e-02 away"),
        ({"takes_all": True}, "gave a class for text instead of an image"),
        ({"digest": "f" * 64}, f"names the model {'f' * 64}, not "),
    ],
)
def test_wrong_answers_are_refused_each_by_its_name(golden: Bundle, how: dict[str, Any], said: str) -> None:
    with pytest.raises(GateRefused, match=said):
        check_answers(golden, Answering(golden, **how).server())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"off_by": 0.01, "off_from": 5}, r"golden images under load 1\.00e-02 away"),
        ({"digest": "f" * 64}, f"names the model {'f' * 64}, not "),
        ({"grows": True}, r"takes 3000\.0 \(memory_mb\)"),
    ],
)
def test_what_goes_wrong_under_load_alone_is_refused_too(golden: Bundle, how: dict[str, Any], said: str) -> None:
    with pytest.raises(GateRefused, match=said):
        check_load(golden, Answering(golden, **how).server(), ServingLimits(load_requests=20))


def large(num_bytes: int) -> bytes:
    return b"P" * num_bytes


def test_no_request_is_larger_than_the_server_takes_and_no_more_pictures_are_in_memory(bundle: Bundle) -> None:
    limits, mebi = Limits(), 2**20
    answering = Answering(bundle)
    taken: list[int] = []

    def pictures() -> Iterator[bytes]:
        for megabytes in (1, 19, 19, 19, *[1] * 40):
            taken.append(megabytes)
            assert sum(taken) - sum(map(sum, answering.requests)) / mebi <= limits.max_body_bytes / mebi
            yield large(megabytes * mebi)

    given = answers(bundle, answering.server(), pictures())
    assert given.places == list(range(44))
    assert len(answering.requests) == 5
    for sizes in answering.requests:
        assert len(sizes) <= limits.max_images and sum(sizes) < limits.max_body_bytes - mebi
    assert limits.max_image_bytes >= serving_check.IMAGE_BYTES_MAX


def test_pictures_above_the_servers_limit_are_left_out_unless_none_is_left(bundle: Bundle) -> None:
    server = Answering(bundle).server()
    too_large = large(serving_check.IMAGE_BYTES_MAX + 1)
    given = answers(bundle, server, [too_large, encode_png(solid(220, 20)), too_large, encode_png(solid(20, 220))])
    assert given.places == [1, 3]
    assert given.decisions == [("defective", "defective"), ("good", "good")]
    with pytest.raises(GateRefused, match="No picture is small enough for the server, which takes 20 MiB"):
        answers(bundle, server, [too_large])


def test_what_the_input_gate_refuses_is_owed_a_review(bundle: Bundle, make_answers: MakeAnswers) -> None:
    test = make_answers(20)
    label, decision = test.rows["predicted"], test.rows["decision"]
    assert gated(bundle, test, [3, 0]) == ([(label[3], decision[3]), (label[0], decision[0])], 0)
    images = np.random.default_rng(0).integers(90, 110, (9, 16, 16, 3), np.uint8)
    gate = fit_input_gate(images, np.arange(6), np.arange(9))
    closed = replace(bundle, input_gate=gate)
    assert gated(closed, test, [3, 0]) == ([(label[3], "review"), (label[0], "review")], 2)
