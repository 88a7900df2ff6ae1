"""What may reach an image, and how compose refuses; skipped where there is no Docker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.engine import docker_answers

REPOSITORY = Path(__file__).parents[2]
CANARY = b"canary-secret-1b7e"

needs_docker = pytest.mark.skipif(not docker_answers("compose", "version"), reason="needs docker compose")
needs_engine = pytest.mark.skipif(not docker_answers("info"), reason="needs a Docker engine")


@needs_engine
def test_no_secret_that_lies_in_the_repository_reaches_an_image(tmp_path: Path) -> None:
    """A whole build context, copied into an image of nothing else, and searched byte for byte."""
    context = tmp_path / "context"
    shutil.copytree(
        REPOSITORY, context, ignore=shutil.ignore_patterns(".git", ".venv*", ".tire*", ".env", "__pycache__")
    )
    planted = [".env", ".env.local", ".tire/stack.env", "stack.env", "docker/.env", "dags/.env", "notes.txt"]
    planted += [
        "tire_pipeline/.env",
        "plugins/tire_airflow/local.env",
        "tire_pipeline/stack/.tire/stack.env",
        "key.pem",
    ]
    for name in planted:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_bytes(CANARY)
    (context / "tire_pipeline" / "seen.py").write_bytes(b"# " + CANARY.replace(b"secret", b"public"))
    out = tmp_path / "layers.tar"
    subprocess.run(
        ["docker", "build", "--quiet", "--output", f"type=tar,dest={out}", "--file", "-", str(context)],
        input=b"FROM scratch\nCOPY . /\n", check=True, capture_output=True,
    )  # fmt: skip
    layers = out.read_bytes()
    assert CANARY not in layers
    assert CANARY.replace(b"secret", b"public") in layers  # what is looked for would be found


@needs_docker
def test_compose_refuses_to_start_with_any_secret_empty_and_names_it(tmp_path: Path) -> None:
    whole = whole_env()
    assert config(tmp_path, whole).returncode == 0
    example = (REPOSITORY / ".env.example").read_text()
    empty = re.findall(r"^([A-Z0-9_]+)=$", example, flags=re.MULTILINE)
    compose = (REPOSITORY / "docker-compose.yaml").read_text()
    demanded = {name for name in empty if f"${{{name}:?is empty" in compose}
    assert len(demanded) == 12
    for name in demanded:
        refused = config(tmp_path, re.sub(rf"^{name}=.*$", f"{name}=", whole, flags=re.MULTILINE))
        assert refused.returncode != 0
        assert f"{name} is missing a value: is empty" in refused.stderr


@needs_docker
def test_every_port_of_the_stack_is_on_loopback_and_every_image_of_ours_steps_down(tmp_path: Path) -> None:
    every = whole_env().replace("COMPOSE_PROFILES=seaweedfs", "COMPOSE_PROFILES=seaweedfs,embedded,gpu")
    text = config(tmp_path, every)
    published = re.findall(r"host_ip: (\S+)", text.stdout)
    assert len(published) == len(re.findall(r"published:", text.stdout)) == 5
    assert set(published) == {"127.0.0.1"}
    for dockerfile in (REPOSITORY / "docker").glob("*.Dockerfile"):
        final = dockerfile.read_text().rsplit("\nFROM ", 1)[1]
        assert "\nUSER tire\n" in final
        assert not re.search(r"\b(pip|uv|gcc|apt-get)\b", final)


def whole_env() -> str:
    """What `docker/make_env.py` writes where there is an engine: without its socket, it leaves that one group empty."""
    made = subprocess.run(
        [sys.executable, str(REPOSITORY / "docker" / "make_env.py")], capture_output=True, text=True, check=True
    )
    return re.sub(r"^DOCKER_GID=$", "DOCKER_GID=1", made.stdout, flags=re.MULTILINE)


def config(folder: Path, env: str) -> subprocess.CompletedProcess[str]:
    (folder / "test.env").write_text(env)
    command = ["docker", "compose", "--project-directory", str(REPOSITORY), "--env-file", str(folder / "test.env")]
    return subprocess.run(
        [*command, "config"], capture_output=True, text=True, env={"PATH": "/usr/local/bin:/usr/bin:/bin"}
    )
