"""The fast way must give what Pillow gives: same pixels, or the same refusal."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, PngImagePlugin, TiffImagePlugin

from tire_pipeline import imaging
from tire_pipeline.errors import InputError
from tire_pipeline.file_limits import EXIF_START, check_directories, num_scans
from tire_pipeline.sample import draw_sample


def photograph(seed: int, *, height: int = 97, width: int = 131) -> Image.Image:
    """Smooth shapes with sharp edges and some noise, in colour; sides that no block size divides."""
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(0, 256, (7, 9, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.circle(pixels, (60, 40), 25, (255, 0, 30), 3)
    return Image.fromarray((pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    exif[0x0110] = "Camera"
    return exif


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("quality", [20, 75, 98])
def test_every_usual_jpeg_decodes_to_the_last_bit_as_pillow_does(subsampling, options, quality) -> None:
    for seed in range(3):
        data = jpeg(photograph(seed), subsampling=subsampling, quality=quality, **options)
        assert np.array_equal(imaging.decode(data), imaging.decode_file(data).pixels)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_print_colours_too(mode: str) -> None:
    data = jpeg(photograph(1).convert(mode), quality=90)
    assert np.array_equal(imaging.decode(data), imaging.decode_file(data).pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_turned(orientation: int) -> None:
    data = jpeg(photograph(2), exif=oriented(orientation))
    assert np.array_equal(imaging.decode(data), imaging.decode_file(data).pixels)


def test_a_turn_that_only_xmp_states_is_made() -> None:
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    data = jpeg(photograph(3), xmp=packet)
    assert np.array_equal(imaging.decode(data), imaging.decode_file(data).pixels)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF"])
def test_other_formats_go_to_pillow(kind: str) -> None:
    buffer = io.BytesIO()
    photograph(4).save(buffer, kind)
    assert np.array_equal(imaging.decode(buffer.getvalue()), imaging.decode_file(buffer.getvalue()).pixels)


def test_what_follows_the_picture_changes_nothing() -> None:
    data = jpeg(photograph(5)) + b"PK\x03\x04 a zip" * 100
    assert np.array_equal(imaging.decode(data), imaging.decode_file(data).pixels)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0 and no more", b"<html>"])
def test_what_pillow_refuses_is_refused_in_its_words(data: bytes) -> None:
    with pytest.raises(InputError) as ours:
        imaging.decode(data)
    with pytest.raises(InputError) as theirs:
        imaging.decode_file(data)
    assert str(ours.value) == str(theirs.value)


def test_a_truncated_jpeg_is_refused() -> None:
    data = jpeg(photograph(6))
    with pytest.raises(InputError, match="truncated"):
        imaging.decode(data[: len(data) // 2])


def test_the_usual_photograph_really_takes_the_fast_way(tmp_path, monkeypatch) -> None:
    draw_sample(tmp_path / "s", num_images=20, seed=1, size=64)
    files = [p.read_bytes() for p in (tmp_path / "s").glob("*/*.jpg")]
    expected = [imaging.decode_file(data).pixels for data in files]
    fast = []
    real = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: fast.append(1) or real(*a, **k))
    files.append(jpeg(photograph(7), exif=oriented(1)))  # a camera's, held upright
    expected.append(imaging.decode_file(files[-1]).pixels)
    assert all(np.array_equal(imaging.decode(data), e) for data, e in zip(files, expected, strict=True))
    assert len(fast) == len(files)


def several_scans(copies: int, *, between: bytes = b"", mode: str = "L", **options: object) -> bytes:
    """A progressive JPEG of 64 × 64 pixels that says its last scan again and again."""
    data = jpeg(Image.new(mode, (64, 64), 100), progressive=True, **options)
    last = data.rindex(b"\xff\xda")
    return data[:last] + (between + data[last:-2]) * copies + b"\xff\xd9"


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


FEW_SCANS = 20 * 64 * 64


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(several_scans(30), id="grey"),
        pytest.param(several_scans(30, mode="RGB"), id="colour"),
        pytest.param(several_scans(30, mode="CMYK"), id="print"),
        pytest.param(several_scans(30, exif=oriented(6)), id="turned"),
        pytest.param(several_scans(30, between=segment(0xFE, b"\xff\xd9 no end")), id="an end within a comment"),
    ],
)
def test_a_jpeg_of_many_scans_is_refused_where_its_time_is_bounded(data: bytes) -> None:
    with pytest.raises(InputError, match="at most 20 are read"):
        imaging.decode(data, max_scan_pixels=FEW_SCANS)
    assert imaging.decode(data).shape == (64, 64, 3)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(several_scans(5), id="progressive"),
        pytest.param(several_scans(1, between=segment(0xFE, b"\xff\xda" * 50)), id="in a comment"),
        pytest.param(several_scans(1) + b"\xff\xda\0\x08" * 500, id="behind the end"),
    ],
)
def test_only_the_pictures_own_scans_count(data: bytes) -> None:
    assert np.array_equal(imaging.decode(data, max_scan_pixels=FEW_SCANS), imaging.decode(data))


def test_no_scan_hides_behind_a_marker_that_decoders_step_over() -> None:
    hidden = b"\xff\x02\x10\x00" + several_scans(30)[2:]
    assert num_scans(b"\xff\xd8" + hidden) >= 30


def tiff(entries: list[tuple[int, int, int, int]], pixels: bytes, *, then: bytes = b"") -> bytes:
    """A little-endian TIFF: pixels first, then the directory of (tag, type, count, value), then what is to follow."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + then


def grey_tiff(width: int, height: int, *, rows: int, strips: int) -> list[tuple[int, int, int, int]]:
    where = 8 + width * height + 2 + 12 * 9 + 4
    sizes = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    return [*sizes, (278, 4, 1, rows), (273, 4, strips, where), (279, 4, strips, where)]


def test_a_tiff_that_names_its_strips_again_and_again_is_refused_before_it_is_read() -> None:
    entries = grey_tiff(1000, 1000, rows=500, strips=40_000)
    data = tiff(entries, bytes(1_000_000), then=bytes(4) + struct.pack("<I", 8) * 40_000)
    for decode in (imaging.decode, imaging.decode_file):
        with pytest.raises(InputError, match="again and again"):
            decode(data)
    again = tiff(grey_tiff(10, 10, rows=5, strips=2), bytes(range(100)), then=bytes(4) + struct.pack("<II", 8, 58))
    assert imaging.decode(again)[:, :, 0].ravel().tolist() == list(range(100))


def directory(*entries: tuple[int, int, int, int], order: str = "<", big: bool = False) -> bytes:
    packed = b"".join(struct.pack(order + ("HHQQ" if big else "HHII"), *e) for e in entries)
    return struct.pack(order + ("Q" if big else "H"), len(entries)) + packed + bytes(8 if big else 4)


LITTLE, GREAT = b"II*\0" + struct.pack("<I", 8), b"MM\0*" + struct.pack(">I", 8)
BIG = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16)
SHORT, LONG, RATIONAL, IFD, LONG8, MANY = 3, 4, 5, 13, 16, 450_000
NUMBERS = bytes(8 * MANY)
EXIF_OF_MANY = directory((36867, RATIONAL, MANY, 60))


def at_60(head: bytes, where: bytes = b"") -> bytes:
    """Two directories, the second at 34, of which the first tells in `where` at 26; the numbers are at 60."""
    return (head + where.ljust(8, b"\0") + EXIF_OF_MANY).ljust(60, b"\0")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(LITTLE + directory((273, LONG, MANY, 26)), id="strips"),
        pytest.param(GREAT + directory((274, RATIONAL, MANY, 26), order=">"), id="big-endian"),
        pytest.param(BIG + directory((274, LONG, MANY, 60), big=True), id="BigTIFF"),
        pytest.param(BIG + directory(*[(300, LONG, 1, 1)] * 70_000, big=True), id="entries"),
        pytest.param(at_60(LITTLE + directory((34665, LONG, 1, 34))), id="EXIF"),
        pytest.param(at_60(LITTLE + directory((40965, IFD, 1, 34))), id="interoperability"),
        pytest.param(at_60(LITTLE + directory((34853, SHORT, 1, 34))), id="GPS at a short number"),
        pytest.param(at_60(LITTLE + directory((34665, LONG, 2, 26)), struct.pack("<II", 34, 0)), id="two places"),
        pytest.param(at_60(LITTLE + directory((34665, LONG8, 1, 26)), struct.pack("<Q", 34)), id="a place elsewhere"),
        pytest.param(
            BIG + directory((34853, LONG, 1, 52 | 7 << 32), big=True) + directory((2, RATIONAL, MANY, 60), big=True),
            id="GPS of a BigTIFF, beside what no reader looks at",
        ),
    ],
)
def test_metadata_of_very_many_numbers_is_refused_before_it_is_read(head: bytes) -> None:
    files = [head + NUMBERS]
    if not head.startswith(BIG):  # which EXIF never is
        photograph(9).save(buffer := io.BytesIO(), "PNG", exif=EXIF_START + head + NUMBERS)
        photograph(9).save(twice := io.BytesIO(), "WEBP", exif=EXIF_START * 2 + head + NUMBERS)
        parts = [(head + NUMBERS)[i : i + 65_000] for i in range(0, len(head + NUMBERS), 65_000)]
        photograph(9).save(jpeg := io.BytesIO(), "JPEG")
        segments = b"".join(segment(0xE1, EXIF_START + part) for part in parts)
        files += [buffer.getvalue(), twice.getvalue(), jpeg.getvalue()[:2] + segments + jpeg.getvalue()[2:]]
    for data in files:
        for decode in (imaging.decode, imaging.decode_file):
            with pytest.raises(InputError, match="metadata lists more than"):
                decode(data)


def test_exif_that_a_png_tells_as_text_is_judged_alike() -> None:
    text = PngImagePlugin.PngInfo()
    exif = LITTLE + directory((274, RATIONAL, MANY, 26)) + NUMBERS
    text.add_text("Raw profile type exif", f"\nexif\n   1\n{exif.hex()}")
    photograph(9).save(buffer := io.BytesIO(), "PNG", pnginfo=text)
    with pytest.raises(InputError, match="metadata lists more than"):
        imaging.decode(buffer.getvalue())


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(LITTLE + directory((37510, 7, 4 * MANY, 26)), id="bytes"),
        pytest.param(LITTLE + directory((37510, LONG, 2**31, 26)), id="a length that cannot be"),
        pytest.param(LITTLE + directory((34665, LONG, 1, 8)), id="itself"),
        pytest.param(LITTLE + directory((34665, LONG, 1, 2**31)), id="beyond the end"),
        pytest.param(LITTLE + directory((34665, LONG8, 1, 2**31)), id="told of beyond the end"),
        pytest.param(LITTLE + directory((34665, 9, 1, 2**32 - 1)), id="before the beginning"),
        pytest.param(LITTLE + directory((34665, RATIONAL, 1, 26)), id="a place that is none"),
        pytest.param(LITTLE + directory((274, LONG, 1, 1))[:9], id="cut off"),
        pytest.param(b"", id="none"),
    ],
)
def test_odd_metadata_is_left_to_pillow(head: bytes) -> None:
    check_directories(head + NUMBERS * bool(head))
    check_directories(head)


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 7])
def test_a_tiff_of_very_many_strips_is_refused_whatever_type_their_places_have(kind: int) -> None:
    data = LITTLE + directory((273, kind, 120_000, 26)) + bytes(range(256)) * 4_000
    with pytest.raises(InputError, match="more than 100000 strips"):
        imaging.decode(data)


def test_a_compressed_tiff_that_names_its_strips_again_and_again_is_refused() -> None:
    photograph(1).save(buffer := io.BytesIO(), "TIFF", compression="tiff_lzw", tiffinfo={278: 4})
    data = bytearray(buffer.getvalue())
    assert imaging.decode(bytes(data)).shape == (97, 131, 3)
    with Image.open(buffer) as image:
        places = image.tag_v2[273]
    assert len(places) == 25
    at = data.index(struct.pack("<II", *places[:2]))
    data[at : at + 4 * 25] = struct.pack("<I", places[0]) * 25
    with pytest.raises(InputError, match="again and again"):
        imaging.decode(bytes(data))


def test_a_png_of_many_compressed_texts_is_refused_and_one_padded_behind_its_end_is_not() -> None:
    photograph(8).save(buffer := io.BytesIO(), "PNG")
    data, text = buffer.getvalue(), b"Comment\0\0" + zlib.compress(bytes(100))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    with pytest.raises(InputError, match="more than 64 compressed texts"):
        imaging.decode(data[:33] + chunk * 70 + data[33:])
    padded = data[:33] + chunk * 20 + data[33:] + bytes(100_000)
    assert np.array_equal(imaging.decode(padded), imaging.decode(data))


def test_a_tiff_compressed_by_lzma_is_refused() -> None:
    photograph(1).save(buffer := io.BytesIO(), "TIFF", compression="lzma")
    with pytest.raises(InputError, match="compressed by LZMA"):
        imaging.decode(buffer.getvalue())


def test_places_that_are_told_again_and_again_are_not_counted_for_ever() -> None:
    """15,000 lists of the same 90,000 places would take this check a minute."""
    where = 8 + 6 + 12 * 15_000
    places = np.arange(90_000, dtype="<u2").tobytes()
    with pytest.raises(InputError, match="more than 100000 strips"):
        check_directories(LITTLE + directory(*[(273, SHORT, 90_000, where)] * 15_000) + places)


def test_directories_that_name_each_other_are_not_gone_through_for_ever() -> None:
    """33,000 of them in 400 KB, each of all that follows."""
    entries = b"".join(struct.pack("<HHII", 34665, LONG, 1, 12 * i) for i in range(33_000))
    with pytest.raises(InputError, match="metadata lists more than"):
        check_directories(LITTLE + b"\xff\xff" + entries)


def test_a_cameras_small_metadata_is_never_too_much() -> None:
    """Even where its number of entries is damaged, and each is noise."""
    noise = np.random.default_rng(0).bytes(60_000)
    check_directories(LITTLE + b"\xff\xff" + noise)


@pytest.mark.parametrize("marker", [0xE1, 0xED, 0xFE])
def test_a_jpeg_of_very_many_segments_is_refused_before_they_are_read(marker: int) -> None:
    data = jpeg(photograph(8))
    for inserted in (segment(marker, b"") * 5_000, b"\xff" * 2**21):
        for decode in (imaging.decode, imaging.decode_file):
            with pytest.raises(InputError, match="more than 4096 segments or 1 MiB of padding"):
                decode(data[:2] + inserted + data[2:])
    with pytest.raises(InputError, match="1 MiB of padding"):
        imaging.decode(data[:20] + b"\xff" * 2**21)
    few = data[:2] + segment(marker, bytes(200)) * 250 + b"\xff" * 5_000 + data[2:]
    assert np.array_equal(imaging.decode(few), imaging.decode(data))


def test_a_png_of_very_many_chunks_is_refused_before_they_are_read() -> None:
    photograph(8).save(buffer := io.BytesIO(), "PNG")
    data = buffer.getvalue()
    chunk = struct.pack(">I", 0) + b"prVt" + struct.pack(">I", zlib.crc32(b"prVt"))
    pixels = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    for inserted in (chunk * 5_000, pixels * 101_000):
        with pytest.raises(InputError, match="PNG is made of more than"):
            imaging.decode(data[:33] + inserted + data[33:])
    assert imaging.decode(data[:33] + chunk * 1_000 + data[33:]).shape == (97, 131, 3)


def test_a_camera_whose_name_is_no_text_has_none() -> None:
    exif = Image.Exif()
    exif[0x0110] = "A" * 1_000
    assert imaging.decode_file(jpeg(photograph(8), exif=exif)).camera == ""


def test_the_pages_of_a_tiff_are_not_counted_where_its_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting takes 3 s for 20,000 of them."""
    photograph(1).save(buffer := io.BytesIO(), "TIFF", save_all=True, append_images=[photograph(2)])
    assert imaging.decode_file(buffer.getvalue()).frames == 2
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", property(lambda _: pytest.fail("counted")))
    assert imaging.decode(buffer.getvalue()).shape == (97, 131, 3)


def test_exif_in_a_great_many_pieces_is_refused_before_it_is_joined() -> None:
    data = jpeg(photograph(8))
    data = data[:2] + segment(0xE1, b"Exif\0\0" + bytes(100)) * 100 + data[2:]
    for decode in (imaging.decode, imaging.decode_file):
        with pytest.raises(InputError, match="100 pieces"):
            decode(data)
