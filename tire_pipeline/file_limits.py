"""What an encoded image may ask of its decoder: little beside its size, whatever its metadata says."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from tire_pipeline.errors import InputError

JPEG_START = b"\xff\xd8\xff"
EXIF_START = b"Exif\0\0"
EXIF_SEGMENTS_MAX = 64
SCAN_BYTES_MIN = 10  # of a JPEG's SOS segment (ITU-T T.81, B.2.3)
JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # with a length behind it, or the end (T.81, table B.1)
ENTRIES_MAX = 4096  # of a TIFF's directories; cameras write about 60
NUMBERS_MAX = 100_000  # in them; five million took Pillow 1.6 GB and 8 s
NUMBER_BYTES = {3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # by type (TIFF 6.0, p. 15)
LONG, IFD, LONG8 = 4, 13, 16
SUB_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability


def check_exif_segments(data: bytes) -> None:
    """Raises InputError for a JPEG with EXIF data in many segments.

    Pillow joins them in quadratic time: 16 MB of small ones take a minute.
    """
    if (num := data.count(EXIF_START)) > EXIF_SEGMENTS_MAX:
        raise InputError(f"The file holds EXIF data in {num} pieces. Export the picture again.")


def check_directories(data: bytes) -> None:
    """Raises InputError for a TIFF, or EXIF data, with long lists of numbers, such as the places of its strips.

    Pillow makes an object of each. What is damaged is left to Pillow, which reads up to there.
    """
    num_entries = num_numbers = 0
    pending, seen = [_first_directory(data)], set[int]()
    while pending:
        if (at := pending.pop()) in seen:
            continue
        seen.add(at)
        for tag, kind, count, value in _entries(data, at):
            num_entries += 1
            size = count * NUMBER_BYTES.get(kind, 0)
            num_numbers += count if 0 < size <= len(data) else 0
            if num_entries > ENTRIES_MAX or num_numbers > NUMBERS_MAX:
                raise InputError(
                    f"The picture's metadata lists more than {NUMBERS_MAX} numbers or {ENTRIES_MAX} entries, as a TIFF "
                    "of very many strips does. Export it again."
                )
            if tag in SUB_DIRECTORIES:
                if kind not in (LONG, IFD, LONG8):
                    raise InputError("The picture's EXIF data is nowhere. Export the picture again.")
                pending.append(value if kind == LONG8 else value & 0xFFFFFFFF)


def check_scans(data: bytes, num_pixels: int, max_scan_pixels: int) -> None:
    """Raises InputError for a JPEG that says its pixels in too many scans."""
    most = max_scan_pixels // max(1, num_pixels)
    # Mostly the file is too small to hold so many; else a bound of a few µs/MB spares the exact count.
    if len(data) // SCAN_BYTES_MIN > most and _num_scans_at_most(data) > most and (num := num_scans(data)) > most:
        raise InputError(
            f"The JPEG says its pixels in {num} scans; at most {most} are read. Save it as a baseline JPEG."
        )


def num_scans(data: bytes) -> int:
    """SOS markers of the picture itself: none of a preview within a segment, or of what follows the end."""
    at, num = 2, 0
    while (found := JPEG_MARKER.search(data, at)) and (marker := found[0][1]) != 0xD9:
        num += marker == 0xDA
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return num


def _num_scans_at_most(data: bytes) -> int:
    """SOS markers, with what looks like one."""
    pairs = (np.frombuffer(data, "<u2", (len(data) - offset) // 2, offset) for offset in (0, 1))
    return sum(int(np.count_nonzero(pair == 0xDAFF)) for pair in pairs)


def _is_big(data: bytes) -> bool:
    return data[2:3] == b"\x2b"  # as Pillow tells a BigTIFF, which is little-endian then


def _order(data: bytes) -> str:
    return "<" if data.startswith(b"I") else ">"


def _first_directory(data: bytes) -> int:
    offset = data[8:16] if _is_big(data) else data[4:8]
    return int.from_bytes(offset, "little" if _order(data) == "<" else "big")


def _entries(data: bytes, at: int) -> Iterator[tuple[int, int, int, int]]:
    """(tag, type, count, value or its place) of a directory's entries, as far as the data goes."""
    length, entry = (struct.Struct(_order(data) + f) for f in (("Q", "HHQQ") if _is_big(data) else ("H", "HHII")))
    with suppress(struct.error, OverflowError):
        (number,) = length.unpack_from(data, at)
        for i in range(number):
            yield entry.unpack_from(data, at + length.size + i * entry.size)
