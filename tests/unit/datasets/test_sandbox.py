from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests import corpus
from tests.unit.fakes import picture
from tire_pipeline.datasets.facts import Facts, facts_of
from tire_pipeline.datasets.sandbox import Sandbox
from tire_pipeline.datasets.sandbox_child import MEMORY_BYTES
from tire_pipeline.errors import TireError

REPOSITORY = Path(__file__).parents[3]


def test_facts_come_back_in_order_and_are_those_of_this_process() -> None:
    files = [picture(seed) for seed in range(40)]
    files[7] = b"no picture"
    with Sandbox(children=1) as sandbox:
        found = sandbox.facts(files)
        assert sandbox.facts([]) == []
    assert found == [facts_of(data) for data in files]
    assert len({f.phash for f in found}) == 40
    assert found[7].error.startswith("This is no readable image")


def test_threads_share_the_children_and_each_gets_its_own_answers() -> None:
    batches = [[picture(10 * b + i) for i in range(5)] for b in range(8)]
    with Sandbox(children=2) as sandbox, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(sandbox.facts, batches))
        assert len(sandbox.pids) == 2
    assert [[f.phash for f in row] for row in found] == [[facts_of(d).phash for d in batch] for batch in batches]


def test_a_file_that_ends_its_child_is_named_by_position_and_the_others_go_on() -> None:
    bomb = corpus.jpeg_of_many_scans(4000)
    with Sandbox(children=1) as sandbox:
        before = sandbox.facts([picture()])
        found = sandbox.facts([picture(1), bomb, picture(2), picture(3)])
        assert sandbox.facts([picture()]) == before
    assert [f.error for f in found] == ["", found[1].error, "", ""]
    assert "more than 2 s of processor time" in found[1].error


def test_a_child_that_somebody_else_ended_costs_no_file() -> None:
    with Sandbox(children=1) as sandbox:
        sandbox.facts([picture()])
        (pid,) = sandbox.pids
        os.kill(pid, signal.SIGKILL)
        assert [f.error for f in sandbox.facts([picture(1), picture(2)])] == ["", ""]
        assert sandbox.pids != [pid]


def test_a_large_photograph_fits_and_one_that_needs_more_memory_is_told_so() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    large, larger = (Image.new("RGB", size, (90, 80, 70)) for size in ((6000, 4000), (7000, 7000)))
    tiff = corpus.encoded(larger, "TIFF")  # 147 MB as a file, and as much and more again as pixels
    with Sandbox(children=1) as sandbox:
        fits, too_large = sandbox.facts([corpus.encoded(large, exif=exif), tiff])
        (pid,) = sandbox.pids
        assert int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 < MEMORY_BYTES
    assert (fits.width, fits.height, fits.orientation, fits.error) == (4000, 6000, 6, "")
    assert "memory" in too_large.error


def test_a_warning_is_an_error_in_the_child_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with Sandbox(children=1) as sandbox:
        (found,) = sandbox.facts([corpus.with_exif_bytes(1, b"II*\0" + bytes(range(60)))])
    assert "Corrupt EXIF data" in found.error
    assert capfd.readouterr() == ("", "")


def test_children_know_no_secret_and_cannot_write_and_end_with_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIRE_S3_SECRET_ACCESS_KEY", "canary")
    with Sandbox(children=1) as sandbox:
        sandbox.facts([picture()])
        child = psutil.Process(sandbox.pids[0])
        assert "canary" not in child.environ().values()
        assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert not child.is_running()


def test_a_process_that_is_daemonic_and_forked_may_decode() -> None:
    code = """
import multiprocessing
from tests.unit.fakes import picture
from tire_pipeline.datasets.sandbox import Sandbox
def decode():
    with Sandbox(children=1) as sandbox:
        print(sandbox.facts([picture(5)])[0].phash, flush=True)
task = multiprocessing.get_context("fork").Process(target=decode, daemon=True)
task.start()
task.join()
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout.strip() == facts_of(picture(5)).phash


def test_a_child_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ImportError: no cv2 here' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with Sandbox(children=1) as sandbox, pytest.raises(TireError, match="did not start: ImportError: no cv2 here"):
        sandbox.facts([picture()])


def test_facts_of_a_photograph() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = 8, "Line 3"
    exif.get_ifd(0x8769)[0x9003] = "2026:11:21 08:09:10"
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 100, 0)).save(buffer, "JPEG", exif=exif)
    facts = facts_of(buffer.getvalue())
    assert (facts.format, facts.mode, facts.width, facts.height, facts.orientation) == ("JPEG", "RGB", 30, 40, 8)
    assert (facts.camera, facts.captured_at, facts.error) == ("Line 3", "2026-11-21T08:09:10", "")
    assert facts.brightness == pytest.approx(118, abs=2)
    assert facts.saturation == pytest.approx(255, abs=2)
    assert facts.contrast == pytest.approx(0, abs=1)
    assert facts.fingerprint
    assert facts_of(b"") == Facts(error="The file is empty (0 bytes). Export the picture again.")


def test_the_perceptual_hash_outlives_compression_and_size_and_tells_pictures_apart() -> None:
    def bits(image: Image.Image, **options: object) -> int:
        return int(facts_of(corpus.encoded(image, **options)).phash, 16)

    one = corpus.photo(1, width=320, height=240)
    for same in (bits(one, quality=30), bits(one.resize((160, 120)))):
        assert (bits(one) ^ same).bit_count() <= 4
    assert (bits(one) ^ bits(corpus.photo(2, width=320, height=240))).bit_count() >= 16


@pytest.mark.parametrize("stamp", ["", "0000:00:00 00:00:00", "2026-11-21", "x" * 30])
def test_a_time_that_is_none_is_empty(stamp: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = stamp
    assert facts_of(corpus.jpeg(1, exif=exif)).captured_at == ""
