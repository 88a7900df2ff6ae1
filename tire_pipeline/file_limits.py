"""What an encoded image may ask of its decoder: little beside its size, whatever its metadata says.

Pillow reads metadata in Python, entry by entry, and makes an object of each. These checks go through it as Pillow
would, in less time, and stop where it becomes too much. What is damaged is left to Pillow, which reads up to there.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from tire_pipeline.errors import InputError

JPEG_START, PNG_START, TIFF_STARTS = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", (b"II", b"MM")
EXIF_START = b"Exif\0\0"
EXIF_SEGMENTS_MAX = 64
SEGMENTS_MAX = 4096  # of a JPEG before its pixels, and of a PNG's chunks beside them; a large profile has 255
PADDING_MAX = 2**20
CHUNKS_MAX = 100_000  # of a PNG's pixels; the usual one has 8 KB or more
SCAN_BYTES_MIN = 10  # of a JPEG's SOS segment (ITU-T T.81, B.2.3)
ENTRIES_MAX = 65_535  # of a TIFF's directories; cameras write about 60
NUMBERS_MAX = 400_000  # in them; five million took Pillow 1.6 GB and 8 s
PARTS_MAX = 100_000  # strips or tiles of a TIFF
PLACES = (273, 324)  # where a TIFF's strips and tiles lie
SHARED_MAX = 8  # of them, that may be the same
COMPRESSED = (b"iCCP", b"zTXt", b"iTXt")  # PNG's chunks that unpack to a megabyte and more
COMPRESSED_MAX = 64
# Bytes of a value by its type (TIFF 6.0, p. 15); those of types 1, 2 and 7 stay bytes.
NUMBER_SIZES = {3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
INTEGERS = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q"}
SUB_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability
# JPEG's markers with a length behind them (T.81, table B.1): those that libjpeg steps over, or the end; Pillow's.
JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
PILLOWS_MARKER = re.compile(rb"\xff[\xc0-\xc7\xc9-\xcf\xda-\xef\xfe]")
SOS, APP1 = 0xDA, 0xE1


def check_metadata(data: bytes) -> None:
    """Raises InputError for an encoded image whose metadata would take Pillow seconds, or memory by the gigabyte."""
    if data.startswith(JPEG_START):
        check_segments(data)
    elif data.startswith(PNG_START):
        _check_chunks(data)
    elif data.startswith(TIFF_STARTS):
        check_directories(data)


def check_segments(data: bytes) -> bool:
    """Whether a JPEG has metadata in an APP1 segment before its pixels, as EXIF and XMP data are.

    Raises InputError for very many segments, and for EXIF data that are too much.
    """
    at, marker, number, padding = 2, 0, 0, 0
    metadata = list[bytes]()
    while marker != SOS:
        found = PILLOWS_MARKER.search(data, at)
        number, padding = number + 1, padding + (found.start() if found else len(data)) - at
        if number > SEGMENTS_MAX or padding > PADDING_MAX:
            raise InputError(
                f"The JPEG has more than {SEGMENTS_MAX} segments or {PADDING_MAX >> 20} MiB of padding before its "
                "pixels. Export it again."
            )
        if found is None:
            break
        marker, start = found[0][1], found.end()
        at = start + max(2, _length(data, start))
        if marker == APP1:
            metadata.append(data[start + 2 : at])
    exif = [part.removeprefix(EXIF_START) for part in metadata if part.startswith(EXIF_START)]
    if len(exif) > EXIF_SEGMENTS_MAX:  # Pillow joins them in quadratic time
        raise InputError(f"The file holds EXIF data in {len(exif)} pieces. Export the picture again.")
    check_directories(b"".join(exif))
    return bool(metadata)


def check_directories(data: bytes) -> None:
    """Raises InputError for a TIFF, or EXIF data, with long lists of numbers, such as the places of its strips."""
    num_entries = num_numbers = num_parts = 0
    pending, seen = [_first_directory(data)], set[int]()
    while pending:
        if (at := pending.pop()) in seen or at < 0:
            continue
        seen.add(at)
        for tag, kind, count, value in _entries(data, at):
            num_entries += 1
            size = count * NUMBER_SIZES.get(kind, 0)
            num_numbers += count if 0 < size <= len(data) else 0  # Pillow steps over what cannot be
            too_many = num_numbers > NUMBERS_MAX and len(data) > NUMBERS_MAX  # it reads no more values than bytes
            if too_many or num_entries > ENTRIES_MAX:
                raise InputError(
                    f"The picture's metadata lists more than {NUMBERS_MAX} numbers or {ENTRIES_MAX} entries, as a TIFF "
                    "of very many strips does. Export it again."
                )
            if tag in PLACES:
                num_parts += count
                _check_places(data, kind, count, value, num_parts=num_parts)
            if tag in SUB_DIRECTORIES and kind in INTEGERS:
                pending.append(_first_number(data, kind, size, value))


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
        num += marker == SOS
        at = found.end() + _length(data, found.end())
    return num


def _num_scans_at_most(data: bytes) -> int:
    """SOS markers, with what looks like one."""
    pairs = (np.frombuffer(data, "<u2", (len(data) - offset) // 2, offset) for offset in (0, 1))
    return sum(int(np.count_nonzero(pair == 0xDAFF)) for pair in pairs)


def _length(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2])


def _check_chunks(data: bytes) -> None:
    at, kind, num_others, num_pixels, num_compressed = len(PNG_START), b"", 0, 0, 0
    while at + 8 <= len(data) and kind != b"IEND":
        kind = data[at + 4 : at + 8]
        num_pixels += kind == b"IDAT"
        num_others += kind != b"IDAT"
        num_compressed += kind in COMPRESSED
        if num_others > SEGMENTS_MAX or num_pixels > CHUNKS_MAX or num_compressed > COMPRESSED_MAX:
            raise InputError(
                f"The PNG is made of more than {SEGMENTS_MAX} pieces, or has more than {COMPRESSED_MAX} compressed "
                "texts. Export it again."
            )
        at += 12 + int.from_bytes(data[at : at + 4])


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


def _check_places(data: bytes, kind: int, count: int, value: int, *, num_parts: int) -> None:
    """Of strips or tiles: how many there are with those before, and whether they are different ones."""
    if num_parts > PARTS_MAX:
        raise InputError(f"The TIFF has more than {PARTS_MAX} strips or tiles. Export it again.")
    if kind not in INTEGERS or count <= SHARED_MAX:
        return
    size = NUMBER_SIZES[kind]
    found = data[value : value + count * size]
    places = np.frombuffer(found, f"{_order(data)}u{size}", len(found) // size)
    if 2 * len(np.unique(places)) < len(places):
        raise InputError("The TIFF names the same parts of the picture again and again. Export it again.")


def _first_number(data: bytes, kind: int, size: int, value: int) -> int:
    """Of an entry of integers, which lie in the entry itself or where that says; -1 beyond the end."""
    inline = struct.pack(_order(data) + ("Q" if _is_big(data) else "I"), value)
    number = struct.Struct(_order(data) + INTEGERS[kind])
    with suppress(struct.error, OverflowError):
        return int(number.unpack_from(*((inline, 0) if size <= len(inline) else (data, value)))[0])
    return -1
