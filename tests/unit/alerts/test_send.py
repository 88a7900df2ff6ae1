"""Against a real local server that answers as Slack does."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tire_pipeline.alerts import TEXT_MAX, send
from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.settings import Settings

SECRET = "T000/B000/geheim"


class Slack(HTTPServer):
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.texts: list[str] = []


class Hook(BaseHTTPRequestHandler):
    server: Slack

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.texts.append(json.loads(body)["text"])
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(b"ok" if self.server.status == 200 else b"invalid_payload")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slack() -> Iterator[Slack]:
    server = Slack()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def settings(home: Path, port: int | None) -> Settings:
    url = None if port is None else f"http://127.0.0.1:{port}/services/{SECRET}"
    return Settings(home=home, slack_webhook_url=url, _env_file=None)  # type: ignore[call-arg]


def test_the_text_arrives_and_a_long_one_is_cut_to_what_slack_takes(tmp_path: Path, slack: Slack) -> None:
    assert send(settings(tmp_path, slack.server_port), "*tire*: ü")
    assert send(settings(tmp_path, slack.server_port), "x" * 5000)
    assert slack.texts == ["*tire*: ü", "x" * TEXT_MAX]


def test_a_refusal_is_said_without_the_address(tmp_path: Path, slack: Slack) -> None:
    slack.status = 400
    with pytest.raises(ServiceUnavailable, match=r"refused the message: 400 invalid_payload. It was: hello") as no:
        send(settings(tmp_path, slack.server_port), "hello")
    assert SECRET not in str(no.value)


def test_an_unreachable_slack_is_said_without_the_address(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ServiceUnavailable, match=r"Slack could not be reached .* The message: hello") as no:
            send(settings(tmp_path, taken.getsockname()[1]), "hello")
    assert SECRET not in str(no.value)
    assert no.value.__cause__ is None


def test_without_slack_the_message_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert not send(settings(tmp_path, None), "hello")
    assert "no Slack is configured (TIRE_SLACK_WEBHOOK_URL); the message would be: hello" in caplog.text
