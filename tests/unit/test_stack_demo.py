from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.stack import demo


class Keyed(BaseHTTPRequestHandler):
    """Is ready with version 1, and asks everybody for a key."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"model_version": 1}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(401)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def keyed() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Keyed)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_asks_for_a_key_does_not_make_the_demo_wait(
    keyed: str, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "1.jpg").write_bytes(b"a picture")
    fake.settings = fake.settings.model_copy(update={"serving_url": keyed})
    said: list[str] = []
    assert demo._ask_server(fake, tmp_path, 1, say=said.append) == []
    assert "API key" in said[0]
    monkeypatch.setattr(demo, "SERVE_S", 0.1)
    with pytest.raises(ServiceUnavailable, match="Version 2 was promoted, but"):
        demo._ask_server(fake, tmp_path, 2, say=said.append)
