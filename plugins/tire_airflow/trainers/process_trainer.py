"""Trains in a process of its own on the worker: what the embedded stack does."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Context

from tire_airflow.links import MlflowRunLink
from tire_airflow.trainers.job import placement, run_tags, trainer_arguments
from tire_airflow.trainers.outcome import Relay, raise_for
from tire_pipeline.settings import load_settings

PR_SET_PDEATHSIG = 1
STOP_S = 3.0  # Airflow kills a task that takes over 5 s to stop


class ProcessTrainOperator(BaseOperator):
    """Trains in a process of its own on the worker; it dies with the task, however the task dies."""

    template_fields = ("spec",)
    operator_extra_links = (MlflowRunLink(),)

    def __init__(self, *, spec: Any, **kwargs: Any) -> None:
        super().__init__(**{**placement(load_settings()), **kwargs})
        self.spec = spec
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="tire-task-") as tmp:
            spec_file, result_file = Path(tmp) / "spec.json", Path(tmp) / "result.json"
            spec_file.write_text(json.dumps(self.spec))
            arguments = trainer_arguments(str(spec_file), str(result_file))
            self._run([sys.executable, "-m", "tire_pipeline", *arguments], {**os.environ, **run_tags(context)})
            result: dict[str, Any] = json.loads(result_file.read_text())
        return result

    def _run(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=functools.partial(_die_with, os.getpid()),
        )
        relay = Relay(self.log)
        try:
            with self._process.stderr as stderr:  # type: ignore[union-attr]  # it was asked for above
                for line in stderr:
                    relay(line.rstrip())
            code = self._process.wait()
        finally:
            relay.close()
            self.on_kill()
        if code:
            raise_for(code, relay.last)

    def on_kill(self) -> None:
        """Stop the trainer and everything it started."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _die_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent ends; a parent that ended before the asking counts too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
