"""The fast way must give what Pillow gives: same pixels, or the same refusal."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tire_pipeline import imaging
from tire_pipeline.errors import InputError
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
