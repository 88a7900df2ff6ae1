"""Back to the model before: the registry moves, and a server under load follows."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.servers import Load, Production, environment, until
from tire_pipeline import steps
from tire_pipeline.wiring import Services

log = logging.getLogger(__name__)
LIMIT_S = 10.0


@pytest.fixture
def serving(live: Services, tmp_path: Path) -> Iterator[Production]:
    with ExitStack() as stack:
        yield Production(live, tmp_path, stack)


def test_a_rollback_under_load_is_answered_by_the_old_model_within_ten_seconds(serving: Production) -> None:
    old, new = (serving.bundle(name, gain=gain) for name, gain in (("old", 1), ("new", 2)))
    before, after = serving.promote("old", old), serving.promote("new", new)
    serving.live.tracking.set_alias("previous", before)
    server = serving.serve_version(after)
    load = Load(server)
    with load.running(4):
        until(lambda: load.answers, "the new model answers")
        began = time.monotonic()
        command = [sys.executable, "-m", "tire_pipeline", "rollback", "--json"]
        done = subprocess.run(
            command, env=environment(serving.live.settings), capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout) == {"from": after, "to": before}
        until(lambda: load.answers[-1]["model_digest"] == old.digest, "the old model answers")
        took_s = time.monotonic() - began
    log.info("the old model answered %.2f s after the command", took_s)
    assert took_s < LIMIT_S
    assert not load.failures
    digests = [a["model_digest"] for a in load.answers]
    assert set(digests) == {old.digest, new.digest}
    (row, *_) = steps.promotions(services=serving.live)
    assert (row["action"], row["from_version"], row["to_version"]) == ("rolled_back", after, before)
