"""The server under load for minutes: reloads, stops, overload. It has all cores but the last, where the load runs and,
in a test of reloads, the stores: what a promotion costs them is not to be taken from the server's share."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.servers import RED, Load, Production, Server, started, until
from tire_pipeline.bench.load import UNSENT, Plan, kept_answers, multipart, request_bytes
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
ROUNDS, ROUND_S = 8, 6.0


@pytest.fixture
def stores_beside_the_load(stores: Settings) -> None:
    """The stores have the generator's core, not the server's."""
    (supervisor,) = (p for p in psutil.process_iter(["cmdline"]) if is_supervisor(p.info["cmdline"] or [], stores.home))
    for process in [supervisor, *supervisor.children(recursive=True)]:
        process.cpu_affinity(sorted(CORES.load))


def is_supervisor(command: list[str], home: Path) -> bool:
    return any("supervisord" in word for word in command) and any(word.startswith(str(home)) for word in command)


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
    production: Production, tmp_path: Path, stores_beside_the_load: None
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
    # In a process of its own: a promotion in this one would hold up the load, which then came in a burst.
    with ProcessPoolExecutor(1, get_context("spawn"), os.sched_setaffinity, (0, CORES.load)) as pool:
        load = pool.submit(kept_answers, address(server), request, rate=rate, seconds=SOAK_S, connections=256)
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
    lost: Counter[str] = Counter()
    answered: set[str] = set()
    for i in range(NUM_STOPS):
        server = production.serve_version(version)
        load = Load(server, keeps_connections=bool(i % 2))
        with load.running():
            until(lambda load=load: len(load.answers) >= 50, "50 answers")  # type: ignore[misc]
            assert server.terminate() == 0
        ends.update(load.failures)
        lost.update(load.lost)
        answered |= {answer["prediction_id"] for answer in load.answers}
    recorded = {row["prediction_id"] for row in production.recorded()}
    print(f"{NUM_STOPS} stops, {len(answered)} answers, {len(recorded ^ answered)} lost, the rest: {dict(ends)}")  # noqa: T201
    assert recorded == answered
    assert not lost, lost


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


def test_the_shadow_slows_no_answer(production: Production, tmp_path: Path) -> None:
    """Rounds by turns at a sixth of what the server can do, so that the shadow finds time for what it is given."""
    write_pictures(tmp_path / "pictures", num_images=20)
    champion = default_bundle(tmp_path / "champion", tmp_path / "pictures")
    shutil.copytree(champion.path, tmp_path / "challenger")
    challenger = replace(champion, path=tmp_path / "challenger", candidate="challenger", digest="").save()
    version = production.promote("champion", champion)
    beside = production.promote("challenger", challenger, alias="staging")
    servers = {alias: shadowed(production, version, alias) for alias in ("off", "staging")}
    picture = min((tmp_path / "pictures").iterdir()).read_bytes()
    rate = knee_per_s(servers["off"], plan(tmp_path, picture, seconds=3.0, connections=16)) / 6
    calm = plan(tmp_path, picture, seconds=ROUND_S, rate=rate, connections=64)
    p50_ms: dict[str, list[float]] = {alias: [] for alias in servers}
    p99_ms: dict[str, list[float]] = {alias: [] for alias in servers}
    for turn in range(ROUNDS):
        for alias in sorted(servers, reverse=bool(turn % 2)):
            found = ask(address(servers[alias]), calm, CORES)
            assert set(found.codes) <= {"200", str(UNSENT)}, found.codes
            p50_ms[alias].append(found.p50_ms)
            p99_ms[alias].append(found.p99_ms)
            drained(servers[alias])
    scored, left_out = shadow_images(servers["staging"])
    slower50, slower99 = (
        statistics.median(b - a for a, b in zip(ms["off"], ms["staging"], strict=True)) for ms in (p50_ms, p99_ms)
    )
    without, with_shadow = (
        f"{statistics.median(p50_ms[a]):.1f} / {statistics.median(p99_ms[a]):.1f} ms" for a in ("off", "staging")
    )
    print(  # noqa: T201
        f"{rate:.0f}/s, p50 / p99 without {without}, with it {with_shadow}, median difference of {ROUNDS} rounds "
        f"{slower50:+.2f} / {slower99:+.2f} ms; version {beside} scored {scored:.0f}, {left_out:.0f} left out"
    )
    assert scored > 0.25 * rate * ROUND_S * ROUNDS
    assert shadow_images(servers["off"]) == (0, 0)
    assert slower50 < max(0.5, 0.1 * statistics.median(p50_ms["off"]))
    assert slower99 < max(2.0, 0.25 * statistics.median(p99_ms["off"]))


def shadowed(production: Production, version: int, alias: str) -> Server:
    """A server that answers with the version, and has the model of this alias beside it."""
    server = production.serve(prefix=PREFIX, shadow_alias=alias, home=production.tmp / f"home-{alias}")
    server.wait_for(version)
    if alias != "off":
        until(lambda: server.predict().is_success and shadow_images(server)[0], "the shadow scores")
    return server


def shadow_images(server: Server) -> tuple[float, float]:
    """How many pictures the shadow scored, and how many it was not given."""
    text = server.client.get("/metrics").text

    def count(outcome: str) -> float:
        found = re.findall(rf'shadow_images_total{{[^}}]*outcome="{outcome}"[^}}]*}} (\S+)', text)
        return sum(map(float, found))

    return count("same") + count("different"), count("left_out")


def drained(server: Server) -> None:
    """Wait until the shadow has had what it was given: it would work on beside the next round."""
    seen = [-1.0]

    def is_still() -> bool:
        time.sleep(0.5)
        seen.append(shadow_images(server)[0])
        return seen[-1] == seen[-2]

    until(is_still, "the shadow has nothing to do")
