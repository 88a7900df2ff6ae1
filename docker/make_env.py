"""`.env.example` with a fresh secret wherever one is empty, on standard output. Needs Python alone.

Example: python3 docker/make_env.py > .env && chmod 600 .env
"""

from __future__ import annotations

import base64
import re
import secrets
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / ".env.example"
SOCKET = Path("/var/run/docker.sock")
OPTIONAL = (
    "TIRE_API_KEYS",
    "TIRE_PARITY_INT8_FLIPS_MAX",
    "TIRE_SLACK_WEBHOOK_URL",
    "TIRE_TRAINER_MEMORY",
    "TIRE_WEIGHTS",
)


def fresh(name: str) -> str:
    """A value for an empty variable: a secret, or this host's own answer."""
    if name == "DOCKER_GID":
        return str(SOCKET.stat().st_gid) if SOCKET.exists() else ""
    if name == "AIRFLOW_FERNET_KEY":
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_hex(10 if name == "TIRE_S3_ACCESS_KEY_ID" else 32)


def filled(example: str) -> str:
    """The example with its empty variables filled in."""

    def fill(line: re.Match[str]) -> str:
        name = line.group(1)
        return line.group(0) if name in OPTIONAL else f"{name}={fresh(name)}"

    return re.sub(r"^([A-Z0-9_]+)=$", fill, example, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.stdout.write(filled(EXAMPLE.read_text()))
