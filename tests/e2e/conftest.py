"""A whole stack of its own, with a Slack that keeps what it is told, and small pictures to push."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tire_pipeline import stack
from tire_pipeline.settings import STACK_ENV, Settings
from tire_pipeline.wiring import Services, services


@dataclass
class FakeSlack:
    """A webhook on loopback."""

    url: str = ""
    messages: list[str] = field(default_factory=list)


@dataclass
class Running:
    """A running stack."""

    home: Path
    live: Services
    slack: FakeSlack

    def run(self, run_id: str) -> dict[str, Any] | None:
        return self.live.orchestrator.run("train_and_promote", run_id)

    def finished(self, run_id: str, *, timeout_s: float = 400) -> dict[str, Any]:
        """The run's record once it has ended."""
        return wait_for(lambda: _ended(self.run(run_id)), timeout_s=timeout_s, what=f"the end of {run_id}")


@pytest.fixture(scope="module")
def slack() -> Iterator[FakeSlack]:
    fake = FakeSlack()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            fake.messages.append(json.loads(body)["text"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}/services/hook"
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, slack: FakeSlack) -> Iterator[Running]:
    with stack_of(tmp_path_factory.mktemp("e2e") / "home", os.environ, slack) as running:
        yield running


@contextmanager
def stack_of(home: Path, environ: Mapping[str, str], slack: FakeSlack) -> Iterator[Running]:
    """A stack in `home`, started with `environ` and stopped at the end."""
    try:
        stack.up(home, environ={**environ, "TIRE_SLACK_WEBHOOK_URL": slack.url})
        live = services(Settings(_env_file=home / STACK_ENV))  # type: ignore[call-arg]
        yield Running(home, live, slack)
        live.close()
    finally:
        stack.down(home)


def wait_for(found: Callable[[], Any], *, timeout_s: float, what: str) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.5)
    raise AssertionError(f"waited {timeout_s:.0f} s in vain for {what}")


def draw(folder: Path, *, seed: int = 0, per_class: int = 80, classes: tuple[str, ...] = ("good", "defective")) -> Path:
    """Noisy grey pictures of 96 pixels; a `defective` one has a dark bar somewhere."""
    rng = np.random.default_rng(seed)
    for label in classes:
        (folder / label).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.normal(128, 20, (96, 96, 3)).clip(0, 255).astype(np.uint8)
            if label == "defective":
                row, column = rng.integers(10, 70, 2)
                pixels[row : row + 12, column : column + 24] = 15
            cv2.imwrite(str(folder / label / f"{i:03d}.png"), pixels)
    return folder


def _ended(record: dict[str, Any] | None) -> dict[str, Any] | None:
    return record if record and record["state"] in ("success", "failed") and record["end_date"] else None
