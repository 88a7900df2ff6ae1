from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.unit.fakes import picture
from tire_pipeline import imaging
from tire_pipeline.errors import InputError
from tire_pipeline.imaging import Preprocessing, decode, decode_file, normalise, prepare, resize, resize_for


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colour(mode: str = "RGB", value: object = (200, 100, 50), size: tuple[int, int] = (30, 20)) -> Image.Image:
    return Image.new(mode, size, value)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG", "WEBP"])
def test_every_allowed_format_decodes_to_upright_rgb(kind: str) -> None:
    decoded = decode_file(encoded(colour(), kind))
    assert decoded.format == kind
    assert decoded.pixels.shape == (20, 30, 3)
    assert np.abs(decoded.pixels.astype(int) - (200, 100, 50)).max() <= 6


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (colour("L", 77), (77, 77, 77)),
        (colour("RGBA", (200, 100, 50, 0)), (200, 100, 50)),
        (colour("I;16", 0x4D00), (77, 77, 77)),
        (colour("1", 1), (255, 255, 255)),
        (colour("LA", (77, 10)), (77, 77, 77)),
    ],
)
def test_every_mode_becomes_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    assert decode(encoded(image))[0, 0].tolist() == list(expected)


def test_a_palette_with_transparency_is_a_picture_and_no_fault() -> None:
    image = colour().quantize(4)
    assert decode(encoded(image, transparency=bytes([0, 128, 255])))[0, 0].tolist() == [200, 100, 50]


def test_exif_turns_the_picture_and_names_the_camera() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = 6, "Line 3"
    decoded = decode_file(encoded(colour(), "JPEG", exif=exif))
    assert decoded.pixels.shape == (30, 20, 3)
    assert decoded.camera == "Line 3"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty \\(0 bytes\\)"),
        (b"text", "no readable image"),
        (picture()[:-60], "no readable image"),
        (encoded(colour(), "JPEG")[:300], "no readable image"),
        (encoded(colour(), "GIF"), "no readable image .* Allowed are JPEG, PNG, BMP, WEBP, TIFF"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        decode(data)
    assert "BytesIO" not in str(refused.value)


def test_a_picture_over_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(InputError, match="30 × 20 = 0 megapixels; at most 0 are read"):
        decode_file(encoded(colour()), max_pixels=599)
    assert decode_file(encoded(colour()), max_pixels=600).pixels.shape == (20, 30, 3)


def test_a_small_file_that_claims_a_huge_picture_is_refused_by_its_header() -> None:
    png = bytearray(encoded(colour()))
    png[16:24] = struct.pack(">II", 20_000, 20_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    with pytest.raises(InputError, match="400000000 pixels"):
        decode(bytes(png))


def test_normalised_input_is_the_formula_in_channel_order() -> None:
    spec = Preprocessing(20, 30)
    x_CHW = prepare(decode(encoded(colour())), spec)
    assert x_CHW.shape == (3, 20, 30)
    assert x_CHW.dtype == np.float32
    expected = (np.array([200, 100, 50]) / 255 - imaging.IMAGENET_MEAN) / imaging.IMAGENET_STD
    assert x_CHW[:, 5, 5] == pytest.approx(expected, abs=1e-5)


def test_one_image_is_prepared_as_in_a_batch() -> None:
    spec = Preprocessing(16, 24)
    pixels = [decode(picture(i)) for i in range(3)]
    batch = normalise(np.stack([resize_for(p, spec) for p in pixels]), spec)
    for i, one in enumerate(pixels):
        assert np.array_equal(batch[i], prepare(one, spec))


def test_a_thin_line_survives_shrinking() -> None:
    pixels = np.full((512, 512, 3), 200, np.uint8)
    pixels[:, 255:257] = 0
    small = resize(pixels, height=64, width=64, how="stretch")
    assert set(small[:, 31:33].ravel().tolist()) == {175}  # an eighth of either column; picking pixels would lose it
    assert set(small[:, :31].ravel().tolist()) == {200}


def test_no_column_falls_between_the_samples_of_a_little_shrinking() -> None:
    for column in range(100, 115):
        pixels = np.full((90, 300, 3), 200, np.uint8)
        pixels[:, column] = 0
        assert resize(pixels, height=60, width=200, how="stretch").min() <= 151  # a quarter of it at least


def test_png_is_lossless() -> None:
    pixels = decode(picture(3))
    assert np.array_equal(decode(imaging.encode_png(pixels)), pixels)


def test_blur_lowers_sharpness_and_light_raises_brightness() -> None:
    pixels = decode(picture(1, size=300))
    blurred = resize(resize(pixels, height=40, width=40, how="stretch"), height=300, width=300, how="stretch")
    assert imaging.sharpness(blurred) < imaging.sharpness(pixels) / 10
    assert imaging.brightness(np.full((5, 5, 3), 9, np.uint8)) == 9
    assert imaging.contrast(np.full((5, 5, 3), 9, np.uint8)) == 0


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 32), (20, 60)])
def test_cropped_to_a_size_the_middle_is_kept_and_nothing_is_distorted(height: int, width: int) -> None:
    rows, columns = np.mgrid[0:90, 0:160]
    pixels = np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8)
    made = imaging.resize(pixels, height=height, width=width, how="crop").astype(float)
    assert made.shape == (height, width, 3)
    down, right = np.diff(made[:, :, 0], axis=0).mean(), np.diff(made[:, :, 1], axis=1).mean()
    assert down == pytest.approx(right, rel=0.1)  # as many pixels of the original a step, both ways
    assert made[:, :, 0].mean() == pytest.approx(44.5, abs=1) and made[:, :, 1].mean() == pytest.approx(79.5, abs=1)


def test_serving_prepares_as_the_preprocessing_says() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    spec = imaging.Preprocessing(32, 32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0), resize="crop")
    cut = imaging.resize(pixels[:, 25:65], height=32, width=32, how="stretch")
    expected = (cut / 255 - np.array(spec.mean)) / np.array(spec.std)
    assert np.allclose(imaging.prepare(pixels, spec), expected.transpose(2, 0, 1), atol=1e-5)
