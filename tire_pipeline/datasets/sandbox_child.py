"""The child process that decodes: `python -m tire_pipeline.datasets.sandbox_child`, fed and read through pipes.

Asked: 8 bytes with the file's length, the file. Answered: 4 + 4 bytes with two lengths, the facts as JSON, the
fingerprint; one answer a file, in order, and an empty one at the start to say that it is ready. The limits are the
kernel's, so they hold inside C code too: memory by RLIMIT_AS, time by interval timers that end the process.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import BinaryIO

import cv2
from PIL import Image

from tire_pipeline.datasets.facts import Facts, facts_of

MEMORY_BYTES = 512 * 2**20
SPARE_BYTES = 40 * 2**20  # libraries' pages that are mapped but not read in yet
CPU_S = 2.0
WALL_S = 30.0
ASKED = struct.Struct("!Q")
ANSWERED = struct.Struct("!II")
ERROR_CHARACTERS = 500


def main() -> None:
    asked, answered = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    _limit()
    send(answered, Facts())
    while length := asked.read(ASKED.size):
        data = asked.read(ASKED.unpack(length)[0])
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        signal.setitimer(signal.ITIMER_REAL, WALL_S)
        facts = _facts(data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(answered, facts)


def send(pipe: BinaryIO, facts: Facts) -> None:
    text = json.dumps(asdict(replace(facts, fingerprint=""))).encode()  # type: ignore[arg-type]
    pipe.write(ANSWERED.pack(len(text), len(facts.fingerprint)) + text + facts.fingerprint)
    pipe.flush()


def receive(pipe: BinaryIO) -> Facts | None:
    """The next answer, or None when the process ended before it gave one."""
    head = pipe.read(ANSWERED.size)
    if len(head) < ANSWERED.size:
        return None
    text_length, fingerprint_length = ANSWERED.unpack(head)
    body = pipe.read(text_length + fingerprint_length)
    if len(body) < text_length + fingerprint_length:
        return None
    return Facts(**{**json.loads(body[:text_length]), "fingerprint": body[text_length:]})


def _facts(data: bytes) -> Facts:
    try:
        facts = facts_of(data)
    except (MemoryError, cv2.error) as error:
        facts = Facts(error=f"Decoding it needs more than {MEMORY_BYTES >> 20} MB of memory ({error}). Scale it down.")
    except Exception as error:
        facts = Facts(error=f"The picture cannot be measured ({type(error).__name__}: {error}). Save it again.")
    return replace(facts, error=facts.error[:ERROR_CHARACTERS])


def _limit() -> None:
    warnings.simplefilter("error")  # a file that makes a decoder warn is a damaged one
    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # ours is lower, and says what to do
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for timeout in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(timeout, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF, signal.SIGALRM))
    if sys.platform == "linux":
        size, resident = (int(n) * resource.getpagesize() for n in Path("/proc/self/statm").read_text().split()[:2])
        most = size + MEMORY_BYTES - SPARE_BYTES - resident
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
