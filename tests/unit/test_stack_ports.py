from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from tire_pipeline.errors import InputError
from tire_pipeline.stack import ports as module
from tire_pipeline.stack.ports import choose_ports, holder, is_free, requested_ports, require_free
from tire_pipeline.stack.records import Ports

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def pretend_taken(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    monkeypatch.setattr(module, "is_free", lambda port: port not in ports)


def test_requested_ports_are_read_from_the_environment() -> None:
    assert requested_ports({"TIRE_PORT_MLFLOW": "15001", "TIRE_PORT_S3": " ", "TIRE_PORT_ELSE": "1"}) == {
        "mlflow": 15001
    }


@pytest.mark.parametrize("text", ["0", "65536", "x", "-1", "1.5", "٣"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="TIRE_PORT_S3"):
        requested_ports({"TIRE_PORT_S3": text})


def test_a_new_home_gets_the_defaults_where_they_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_taken(monkeypatch)
    assert choose_ports({}, None) == Ports()


def test_a_new_home_beside_another_gets_the_next_block_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_taken(monkeypatch, Ports().mlflow, Ports().s3 + 100)
    assert choose_ports({}, None) == Ports(15632, 19200, 15200, 18280, 18200)


def test_every_block_lies_below_the_ports_that_the_kernel_gives_to_clients() -> None:
    assert max(vars(Ports()).values()) + module.NUM_BLOCKS * module.BLOCK_STEP < 32768


def test_a_requested_port_wins_over_the_recorded_one_and_moves_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_taken(monkeypatch, 15001)
    assert choose_ports({"mlflow": 15001}, Ports(s3=1234)) == Ports(s3=1234, mlflow=15001)


def test_two_parts_on_one_port_are_refused() -> None:
    with pytest.raises(InputError, match="both listen on port 19000"):
        choose_ports({"mlflow": 19000}, Ports())


def test_a_taken_port_is_reported_with_its_holder_and_the_way_out(taken: int) -> None:
    assert not is_free(taken)
    assert holder(taken).startswith(f"process {os.getpid()} (")
    with pytest.raises(
        InputError, match=rf"port {taken} \(s3\) is held by process {os.getpid()}.*TIRE_PORT_S3=\d+ tire up"
    ):
        require_free(Ports(s3=taken), {"s3"})
    require_free(Ports(s3=taken), set())
