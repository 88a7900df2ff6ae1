"""Every hostile or odd file gets its verdict, and none takes the scan with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import corpus
from tire_pipeline.datasets.sandbox_child import MEMORY_BYTES

REPOSITORY = Path(__file__).parents[3]

# A process of its own: what its children took at most is then what decoding took.
JUDGE = """
import json, resource, time
from tests.corpus import files
from tire_pipeline.datasets.paths import fault_of
from tire_pipeline.datasets.sandbox import Sandbox
rows = []
with Sandbox(children=1) as sandbox:
    sandbox.facts([b"start"])
    for case in files():
        start = time.perf_counter()
        facts = None if (fault := fault_of(case.key)) else sandbox.facts([case.data])[0]
        ms = 1e3 * (time.perf_counter() - start)
        rows.append([case.key, facts.error if facts else fault, facts.orientation if facts else 1, ms])
print(json.dumps([rows, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""


@pytest.fixture(scope="module")
def judged() -> tuple[list[list[Any]], int]:
    """(key, error, orientation, ms) of each file, and the largest child's memory in bytes. A table with `-s`."""
    answer = subprocess.run([sys.executable, "-c", JUDGE], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    rows, peak = json.loads(answer.stdout)
    lines = [f"| {key} | {error or 'usable'} | {ms:.1f} |" for key, error, _, ms in rows]
    sys.stdout.write("\n".join(["", "| file | verdict | ms |", "| --- | --- | --- |", *lines, ""]))
    sys.stdout.write(f"{len(rows)} files, largest child {peak / 2**20:.0f} MB\n")
    return rows, peak


def test_every_file_of_the_corpus_has_the_verdict_that_it_must_have(judged: Any) -> None:
    errors = {key: error for key, error, _, _ in judged[0]}
    cases = corpus.files()
    assert len(cases) == len(errors) >= 60
    wrong = {c.key: errors[c.key] for c in cases if (c.said not in errors[c.key] if c.said else errors[c.key])}
    assert wrong == {}


def test_the_orientation_is_what_the_camera_said(judged: Any) -> None:
    found = {key: orientation for key, _, orientation, _ in judged[0]}
    assert {c.key: found[c.key] for c in corpus.files() if not c.said} == {
        c.key: c.orientation for c in corpus.files() if not c.said
    }


def test_no_child_takes_more_memory_than_it_may(judged: Any) -> None:
    assert judged[1] < MEMORY_BYTES
