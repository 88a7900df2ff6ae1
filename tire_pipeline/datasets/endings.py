"""What a file is by its first bytes, and where the picture in it ends.

Decoders stop at the picture's end, so a JPEG followed by a ZIP archive or a web page decodes without complaint, and
is that other thing to the next program.
"""

from __future__ import annotations

import re

JPEG = b"\xff\xd8\xff"
PADDING = b"\0 \t\r\n"
APPENDED_BYTES_MAX = 64
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # within a scan FF 00 is a value and FF D0..D7 a restart
_OTHERS = (
    (re.compile(rb"PK(\x03\x04|\x05\x06)"), "a ZIP archive"),
    (re.compile(rb"(?i)<svg\b"), "an SVG drawing"),
    (re.compile(rb"(?i)<(!doctype|html|head|body|script)\b"), "a web page"),
    (re.compile(rb"GIF8[79]a"), "a GIF"),
    (re.compile(rb"%PDF-"), "a PDF"),
    (re.compile(rb"ftyp(heic|heix|mif1|msf1|avif)"), "a HEIC or AVIF picture"),
    (re.compile(rb"\x7fELF|MZ\x90\0"), "a program"),
)
_LOOKED_AT = 512
_PICTURES = (JPEG, b"\x89PNG", b"BM", b"RIFF", b"II", b"MM")


def other_kind(data: bytes) -> str:
    """What the first bytes say a file is that is no picture of an allowed format; empty where they say nothing."""
    start = b"" if data.startswith(_PICTURES) else data[:_LOOKED_AT]
    return next((name for pattern, name in _OTHERS if pattern.search(start)), "")


def appended(data: bytes, kind: str) -> str:
    """What follows the picture's end, in words; empty for nothing, padding, or what cameras write there.

    `kind` is Pillow's name of the format. Cameras write previews and gain maps (JPEG again), telephones the film of a
    motion photo (MP4) or Samsung's record that ends in SEFT. Anything else unknown is let pass up to
    APPENDED_BYTES_MAX bytes.
    """
    rest = data[_end(data, kind) :].strip(PADDING)
    while rest.startswith(JPEG):
        rest = rest[_jpeg_end(rest) :].strip(PADDING)
    other = other_kind(rest)
    by_camera = rest[4:8] == b"ftyp" or rest.endswith(b"SEFT")
    if not other and (len(rest) <= APPENDED_BYTES_MAX or by_camera):
        return ""
    return f"{len(rest)} bytes follow the picture's end{f' ({other})' if other else ''}"


def _end(data: bytes, kind: str) -> int:
    """The number of bytes up to the picture's end; all of them where the format has no end or the file none."""
    if kind in ("JPEG", "MPO"):
        return _jpeg_end(data)
    if kind == "PNG":
        return _png_end(data)
    if kind == "WEBP":
        return 8 + int.from_bytes(data[4:8], "little")
    return len(data)


def _jpeg_end(data: bytes) -> int:
    """ITU-T T.81, annex B: segments with a length, scans without one, up to the marker EOI (FF D9)."""
    at = 2
    while (found := _NEXT_MARKER.search(data, at)) is not None:
        marker = data[found.start() + 1]
        if marker == 0xD9:
            return found.end()
        at = found.end() if marker == 0x01 else found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return len(data)


def _png_end(data: bytes) -> int:
    """PNG, chapter 5.3: chunks of length, type, data and checksum, the last of which is IEND."""
    at = 8
    while at + 8 <= len(data):
        kind = data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND":
            return at
    return len(data)
