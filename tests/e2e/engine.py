"""What this host has of Docker. The command line is asked, because Docker's client for Python leaves its socket open
where no engine answers, and pytest then fails the test that runs when the socket is collected."""

from __future__ import annotations

import subprocess

import pytest


def docker_answers(*command: str) -> bool:
    """Whether `docker` with this command ends well, in 20 s."""
    try:
        return subprocess.run(["docker", *command], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def needs_image(*names: str, how: str = "") -> pytest.MarkDecorator:
    """Skips where no engine answers that has the images; `how` says how to get them."""
    reason = f"needs a Docker engine and {', '.join(names)}" + (f" ({how})" if how else "")
    return pytest.mark.skipif(not docker_answers("image", "inspect", *names), reason=reason)
