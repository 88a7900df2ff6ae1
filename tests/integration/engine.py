"""A Docker engine as `Containers` asks it, whose containers are processes of this environment on loopback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from docker.errors import APIError, NotFound

NETWORK, ADDRESS = "tire", "127.99.0.7"  # all of 127/8 is this host on Linux


@dataclass
class Engine:
    """`made` are the options of each container by its id; `there` are those that were not removed."""

    folder: Path
    refuses: str = ""
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    there: dict[str, subprocess.Popen[bytes] | None] = field(default_factory=dict)

    def create_host_config(self, **options: Any) -> dict[str, Any]:
        return options

    def create_container(self, **options: Any) -> dict[str, str]:
        name = f"id{len(self.made)}"
        self.made[name], self.there[name] = options, None
        return {"Id": name}

    def put_archive(self, name: str, path: str, data: Any) -> bool:
        assert path in self.made[name]["volumes"], "the rest of the container is read-only"
        with tarfile.open(fileobj=io.BytesIO(data.read())) as archive:
            assert all(m.mode & 0o444 == 0o444 for m in archive)
            archive.extractall(self._root(name) / path.strip("/"), filter="data")
        return True

    def start(self, name: str) -> None:
        if self.refuses:
            raise APIError(self.refuses)
        options = self.made[name]
        files = str(self._root(name) / "work")
        command = [word.replace("/work", files).replace("0.0.0.0", ADDRESS) for word in options["command"]]  # noqa: S104
        with (self._root(name) / "log").open("wb") as log:
            self.there[name] = subprocess.Popen(
                [sys.executable, "-m", "tire_pipeline", *command],
                env={**os.environ, **options["environment"]}, stdout=log, stderr=log,
            )  # fmt: skip

    def inspect_container(self, name: str) -> dict[str, Any]:
        code = self._process(name).poll()
        state = {"Running": code is None, "ExitCode": code or 0}
        networks = {self.made[name]["host_config"]["network_mode"]: {"IPAddress": ADDRESS}}
        return {"State": state, "NetworkSettings": {"Networks": networks}}

    def stats(self, name: str, *, stream: bool, one_shot: bool) -> dict[str, Any]:
        assert not stream and one_shot
        taken = psutil.Process(self._process(name).pid).memory_info().rss
        return {"memory_stats": {"usage": taken + 10**9, "stats": {"inactive_file": 10**9}}}

    def logs(self, name: str, *, tail: int) -> bytes:
        return b"\n".join((self._root(name) / "log").read_bytes().splitlines()[-tail:])

    def remove_container(self, name: str, *, v: bool, force: bool) -> None:
        if name not in self.there:
            raise NotFound("no such container")
        if process := self.there.pop(name):
            process.kill()
            process.wait()

    def _root(self, name: str) -> Path:
        (root := self.folder / name).mkdir(parents=True, exist_ok=True)
        return root

    def _process(self, name: str) -> subprocess.Popen[bytes]:
        process = self.there[name]
        assert process, "it was not started"
        return process
