"""The server under load for minutes: reloads, stops, overload. It has all cores but the last, where the load runs."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.servers import RED, Load, Production, Server, started, until
from tire_pipeline.bench.load import UNSENT, Plan, multipart, open_load, request_bytes
from tire_pipeline.bench.pictures import write_pictures
from tire_pipeline.bench.serve import ask, default_bundle, pinned, split_cores
from tire_pipeline.bundle import Session
from tire_pipeline.imaging import encode_png, prepare
from tire_pipeline.settings import Settings

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

CORES = split_cores(os.sched_getaffinity(0))
PREFIX = pinned([], CORES.server)
RELOAD_S, SOAK_S = 5.0, 180.0
NUM_STOPS = 50


def address(server: Server) -> str:
    return server.client.base_url.netloc.decode()


def plan(tmp_path: Path, picture: bytes, **options: Any) -> Plan:
    content_type, body = multipart("images", picture)
    (tmp_path / "form").write_bytes(body)
    return Plan("/predict", content_type, str(tmp_path / "form"), **options)


def knee_per_s(server: Server, closed: Plan) -> float:
    """The most answers a second, of three tries that begin warm."""
    tries = [ask(address(server), closed, CORES).per_s for _ in range(4)]
    return sorted(tries[1:])[1]


def test_reloading_under_load_fails_nothing_and_every_answer_is_of_the_model_it_names(
    production: Production, tmp_path: Path
) -> None:
    bundles = [production.bundle(f"m{i}", gain=1 + i) for i in range(3)]
    versions = [production.promote(f"m{i}", bundle) for i, bundle in enumerate(bundles)]
    server = production.serve_version(versions[-1], prefix=PREFIX)
    asked = plan(tmp_path, encode_png(RED), seconds=3.0)
    rate = 0.7 * knee_per_s(server, asked)
    request = request_bytes(
        address(server), asked.path, content_type=asked.content_type, body=Path(asked.body).read_bytes()
    )
    before_kb = memory_kb(server)
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(
            lambda: asyncio.run(
                open_load(address(server), request, rate=rate, seconds=SOAK_S, connections=256, keep=True)
            )
        )
        reloads = 0
        while not load.done():
            version = versions[reloads % 3]
            production.live.tracking.set_alias("production", version)
            server.wait_for(version)
            reloads += 1
            time.sleep(RELOAD_S)
        answers = load.result()
    codes = Counter(answer.code for answer in answers)
    assert set(codes) <= {200, UNSENT} and codes[200] >= 0.95 * rate * SOAK_S, codes
    answers = [answer for answer in answers if answer.code == 200]
    truth = {b.digest: float(Session(b).probabilities(prepare(RED, b.preprocessing)[None])[0, 0]) for b in bundles}
    named = Counter[str]()
    for answer in answers:
        (prediction,) = json.loads(answer.body)["predictions"]
        named[prediction["model_digest"]] += 1
        assert prediction["probabilities"]["defective"] == pytest.approx(truth[prediction["model_digest"]], abs=1e-5)
    assert set(named) == set(truth) and reloads >= 0.7 * SOAK_S / (RELOAD_S + 2)
    slowest_ms = 1000 * sorted(answer.seconds for answer in answers)[int(0.99 * len(answers))]
    grown_mb = (memory_kb(server) - before_kb) / 1024
    print(f"{len(answers)} answers at {rate:.0f}/s, {reloads} reloads, p99 {slowest_ms:.0f} ms, {grown_mb:+.0f} MB")  # noqa: T201
    assert grown_mb < 60


def memory_kb(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_stops_under_load_lose_no_accepted_request(production: Production) -> None:
    version = production.promote("one", production.bundle("one", gain=1))
    ends: Counter[str] = Counter()
    answered: set[str] = set()
    for _ in range(NUM_STOPS):
        server = production.serve_version(version)
        load = Load(server)
        with load.running():
            until(lambda load=load: len(load.answers) >= 50, "50 answers")  # type: ignore[misc]
            assert server.terminate() == 0
        ends.update(load.failures)
        answered |= {answer["prediction_id"] for answer in load.answers}
    recorded = {row["prediction_id"] for row in production.recorded()}
    print(f"{NUM_STOPS} stops, {len(answered)} answers, {len(recorded ^ answered)} lost, the rest: {dict(ends)}")  # noqa: T201
    assert recorded == answered


def test_under_three_times_its_load_the_server_keeps_its_pace_and_recovers_at_once(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", num_images=20)
    bundle = default_bundle(tmp_path / "bundle", tmp_path / "pictures")
    picture = min((tmp_path / "pictures").iterdir()).read_bytes()
    settings = Settings(home=tmp_path / "home")
    with started(settings, tmp_path / "log", "--bundle", str(bundle.path), prefix=PREFIX) as server:
        closed = plan(tmp_path, picture, seconds=5.0, connections=16)
        knee = knee_per_s(server, closed)
        flood = ask(address(server), replace(closed, seconds=20.0, rate=3 * knee, connections=400), CORES)
        after = ask(address(server), replace(closed, seconds=10.0, rate=0.5 * knee, connections=64), CORES)
    print(  # noqa: T201
        f"knee {knee:.0f}/s; at three times {flood.per_s:.0f}/s ({flood.per_s / knee:.0%}), p99 {flood.p99_ms:.0f} ms, "
        f"{flood.codes}; settled {after.unsettled_s:.1f} s after it, p99 {after.p99_ms:.0f} ms"
    )
    assert set(flood.codes) <= {"200", "429", str(UNSENT)}
    assert flood.per_s >= 0.8 * knee
    assert after.unsettled_s <= 5.0
