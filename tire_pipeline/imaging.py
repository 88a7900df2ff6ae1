"""Decoding and preprocessing, one way for training, evaluation and serving. numpy, cv2 and two decoders, no torch.

Shapes: H height, W width, C channels (RGB). Pixels are uint8 0..255 until `normalise`.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, TiffImagePlugin

from tire_pipeline.errors import InputError
from tire_pipeline.file_limits import JPEG_START, check_directories, check_metadata, check_scans, check_segments

# Whoever decodes many images has a thread a core; OpenCV's own, for one image, would cost more time than they save.
cv2.setNumThreads(1)

Pixels = npt.NDArray[np.uint8]
Triple = tuple[float, float, float]

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 50_000_000
STRIP_PIXELS = 1_000_000
LINEAR_SHRINK_MAX = 1.5
EXIF_TEXT_MAX = 256
TIFF_SAMPLES_MAX = 6  # Pillow's own limit
TIFF_COMPRESSION_REFUSED = "lzma"  # takes 8 s for a picture that others give in one
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the model's input: `resize` to height × width, then (x/255 − mean)/std per channel."""

    height: int
    width: int
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    resize: str = "stretch"


@dataclass(frozen=True)
class Decoded:
    """An image and what its file said of it.

    `orientation` is EXIF's 1..8 before the pixels were turned upright, `captured_at` is `YYYY-MM-DDTHH:MM:SS` by the
    camera's clock, `frames` counts the pictures in the file. What the file does not say is empty.
    """

    pixels: Pixels
    format: str
    mode: str
    camera: str
    orientation: int = 1
    captured_at: str = ""
    frames: int = 1


@dataclass(frozen=True)
class Photometry:
    """An image's light in figures, see `brightness`, `contrast` and `sharpness`.

    `saturation` is the mean of HSV's S over a grid of 64 × 64 pixels, 0 (grey) to 255.
    """

    brightness: float
    contrast: float
    sharpness: float
    saturation: float


def decode_file(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Upright RGB pixels (H, W, 3) of an encoded image, with its format. Of several pictures in a file, the first.

    Raises InputError for anything that is no image of the allowed formats, is truncated, or is larger than
    `max_pixels`. Pillow's `load` finds truncation that `verify` lets through. Takes at most 7 bytes a pixel beside the
    file, of a progressive JPEG 12 and of a WebP 16; how long it takes is for the caller to bound, where the file comes
    from strangers. Safe to call from several threads, so no warning filter is set here: those are the whole process'.
    """
    return _by_pillow(data, max_pixels=max_pixels, describe=True)


def _by_pillow(data: bytes, *, max_pixels: int, max_scan_pixels: int | None = None, describe: bool = False) -> Decoded:
    """Without `describe` neither camera nor time are read, and frames are not counted."""
    if not data:
        raise InputError("The file is empty (0 bytes). Export the picture again.")
    check_metadata(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, max_pixels)
            _check_strips(image)
            if max_scan_pixels is not None and image.format in ("JPEG", "MPO"):
                check_scans(data, image.width * image.height, max_scan_pixels)
            if image.info.get("compression") == TIFF_COMPRESSION_REFUSED:
                raise InputError("The TIFF is compressed by LZMA, which takes seconds to read. Save it by another.")
            exif = _exif(image)
            stated, kind, mode = _orientation(exif), image.format or "", image.mode
            camera, captured_at = (_camera(exif), _captured_at(exif)) if describe else ("", "")
            frames = getattr(image, "n_frames", 1) if describe else 1  # quadratic in the pages of a TIFF
            image.load()
            pixels = _upright_rgb(image, _orientation(image.getexif()))  # Pillow turns TIFF itself while loading
            return Decoded(pixels, kind, mode, camera, stated, captured_at, frames)
    except InputError:
        raise
    except MemoryError:
        raise InputError("There is not enough memory to decode this image. Scale it down.") from None
    except Exception as error:  # Pillow's decoders raise what they like: OSError, SyntaxError, struct.error, …
        reason = str(error).split("<_io")[0].strip() or type(error).__name__
        raise InputError(
            f"This is no readable image ({reason}). Allowed are {', '.join(FORMATS)}; save the picture again."
        ) from error


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, max_scan_pixels: int | None = None) -> Pixels:
    """The pixels of `decode_file`, to the last bit, and its errors; in half the time for a JPEG that needs no turning.

    With `max_scan_pixels`, the time is bounded by the sizes of file and picture: a JPEG whose pixels times its scans
    are more is refused. A progressive one says each pixel in about 10 scans; 250 fit into 160 KB and take 12 s.

    simplejpeg and Pillow carry the same libjpeg-turbo, and at its exact settings both give the same pixels. `fastdct`
    and `fastupsample` would save another tenth and change them by up to 25 grey levels.
    """
    if data.startswith(JPEG_START) and not _may_be_turned(data):
        with suppress(ValueError, MemoryError):  # odd or damaged: Pillow has the last word
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours in ("YCbCr", "Gray") and height * width <= max_pixels:
                if max_scan_pixels is not None:
                    check_scans(data, height * width, max_scan_pixels)
                return cast("Pixels", simplejpeg.decode_jpeg(data, "RGB"))
    return _by_pillow(data, max_pixels=max_pixels, max_scan_pixels=max_scan_pixels).pixels


def resize(pixels_HWC: Pixels, *, height: int, width: int, how: str) -> Pixels:
    """The model's size: `stretch` brings each side to its length; `crop` keeps to the largest part in the middle that
    has the ratio of the size, so that nothing is distorted.

    By area interpolation, so that no thin crack falls between two samples, and by linear, which takes a quarter of the
    time, where neighbouring samples still see every pixel: up to 1.5 times smaller, or larger.
    """
    if how == "crop":
        pixels_HWC = _middle(pixels_HWC, height, width)
    if max(pixels_HWC.shape[0] / height, pixels_HWC.shape[1] / width) > LINEAR_SHRINK_MAX:
        return shrink(pixels_HWC, height=height, width=width)
    return _resized(pixels_HWC, height, width, cv2.INTER_LINEAR)


def resize_for(pixels_HWC: Pixels, spec: Preprocessing) -> Pixels:
    """What the model sees of a decoded image: (spec.height, spec.width, 3), before `normalise`."""
    return resize(pixels_HWC, height=spec.height, width=spec.width, how=spec.resize)


def shrink(pixels_HWC: Pixels, *, height: int, width: int) -> Pixels:
    """By area interpolation whatever the factor, for what is measured; linear where it grows."""
    shrinks = pixels_HWC.shape[0] >= height and pixels_HWC.shape[1] >= width
    return _resized(pixels_HWC, height, width, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _middle(pixels_HWC: Pixels, height: int, width: int) -> Pixels:
    have_height, have_width = pixels_HWC.shape[:2]
    scale = min(have_height / height, have_width / width)
    take_height, take_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (have_height - take_height) // 2, (have_width - take_width) // 2
    return np.ascontiguousarray(pixels_HWC[top : top + take_height, left : left + take_width])


def _resized(pixels_HWC: Pixels, height: int, width: int, method: int) -> Pixels:
    if pixels_HWC.shape[:2] == (height, width):
        return pixels_HWC
    return cast("Pixels", cv2.resize(pixels_HWC, (width, height), interpolation=method))


def normalise(pixels_BHWC: Pixels, spec: Preprocessing) -> npt.NDArray[np.float32]:
    """(B, H, W, C) uint8 to (B, C, H, W) float32, by the spec's mean and standard deviation."""
    scale = 1.0 / (255.0 * np.asarray(spec.std, np.float32))
    shift = np.asarray(spec.mean, np.float32) / np.asarray(spec.std, np.float32)
    x_BHWC = pixels_BHWC.astype(np.float32) * scale.astype(np.float32) - shift
    return np.ascontiguousarray(x_BHWC.transpose(0, 3, 1, 2))


def prepare(pixels_HWC: Pixels, spec: Preprocessing) -> npt.NDArray[np.float32]:
    """One decoded image as the model's input, (C, H, W) float32."""
    return cast("npt.NDArray[np.float32]", normalise(resize_for(pixels_HWC, spec)[None], spec)[0])


def brightness(pixels_HWC: Pixels) -> float:
    """Mean grey level, 0 (black) to 255 (white)."""
    return _mean_and_std(_grey(pixels_HWC))[0]


def contrast(pixels_HWC: Pixels) -> float:
    """Standard deviation of the grey level, 0 to 127.5."""
    return _mean_and_std(_grey(pixels_HWC))[1]


def sharpness(pixels_HWC: Pixels) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al., ICPR 2000), measured at 256 pixels a side; low is blurred."""
    return _sharpness(_grey(pixels_HWC))


def photometry(pixels_HWC: Pixels) -> Photometry:
    """All figures of an image's light at once."""
    grey_HW = _grey(pixels_HWC)
    sample = cv2.resize(pixels_HWC, (64, 64), interpolation=cv2.INTER_NEAREST)
    saturation = cv2.mean(cv2.cvtColor(sample, cv2.COLOR_RGB2HSV))[1]
    return Photometry(*_mean_and_std(grey_HW), _sharpness(grey_HW), saturation)


def encode_png(pixels_HWC: Pixels) -> bytes:
    """RGB pixels as PNG, without loss."""
    _, data = cv2.imencode(".png", cv2.cvtColor(pixels_HWC, cv2.COLOR_RGB2BGR))
    return bytes(data)


def encode_jpeg(pixels_HWC: Pixels, *, quality: int = 85) -> bytes:
    """RGB pixels as JPEG, for thumbnails in reports."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels_HWC, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


def _grey(pixels_HWC: Pixels) -> Pixels:
    return cast("Pixels", cv2.cvtColor(pixels_HWC, cv2.COLOR_RGB2GRAY))


def _mean_and_std(values_HW: npt.NDArray[np.uint8] | npt.NDArray[np.int16]) -> tuple[float, float]:
    mean, std = cv2.meanStdDev(values_HW)  # numpy's std makes a float64 copy, 400 MB of a 50-megapixel image
    return float(mean[0, 0]), float(std[0, 0])


def _sharpness(grey_HW: Pixels) -> float:
    small = shrink(grey_HW, height=256, width=256)
    return _mean_and_std(cast("npt.NDArray[np.int16]", cv2.Laplacian(small, cv2.CV_16S)))[1] ** 2


def _exif(image: Image.Image) -> Image.Exif:
    """What Pillow found, wherever in the file; it reads the values when they are asked for."""
    exif = image.getexif()
    if isinstance(file := getattr(exif, "fp", None), io.BytesIO):
        check_directories(file.getvalue())
    return exif


def _orientation(exif: Image.Exif) -> int:
    value = exif.get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) and value in range(1, 9) else 1


def _camera(exif: Image.Exif) -> str:
    return _text(exif.get(ExifTags.Base.Model))


def _captured_at(exif: Image.Exif) -> str:
    stated = _text(exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal))
    try:
        # EXIF knows no zone, and none is invented.
        return datetime.strptime(stated, "%Y:%m:%d %H:%M:%S").isoformat()  # noqa: DTZ007
    except ValueError:
        return ""


def _text(value: object) -> str:
    return value.strip("\0 ") if isinstance(value, str) and len(value) <= EXIF_TEXT_MAX else ""


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise InputError(
            f"The image has {width} × {height} = {width * height / 1e6:.0f} megapixels; "
            f"at most {max_pixels / 1e6:.0f} are read. Scale it down."
        )


def _check_strips(image: Image.Image) -> None:
    """A TIFF says where each strip of the picture lies, and may say it of the same strip a million times."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        parts = [tile.extents or (0, 0, *image.size) for tile in image.tile]
        stated = sum((right - left) * (bottom - top) for left, top, right, bottom in parts)
        if stated > TIFF_SAMPLES_MAX * image.width * image.height:
            raise InputError("The TIFF names the same parts of the picture again and again. Export it again.")


def _upright_rgb(image: Image.Image, orientation: int) -> Pixels:
    """Loaded pixels (H, W, 3) as EXIF's orientation (1..8) wants them shown: TIFF 6.0, tag 274.

    Strip by strip: conversions of a whole large image would hold four copies of it.
    """
    if image.mode == "F":
        raise InputError("The image has floating-point pixels, of no known range. Save it with 8 bits.")
    width, height = image.size
    lies = orientation >= 5
    rows = max(1, STRIP_PIXELS // width)
    pixels_HWC = np.empty((width, height, 3) if lies else (height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = _rgb(image if bottom - top == height else image.crop((0, top, width, bottom)))
        if lies:
            pixels_HWC[:, top:bottom] = cv2.transpose(strip)
        else:
            pixels_HWC[top:bottom] = strip
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)  # cv2: 1 left-right, 0 top-bottom, -1 both
    return pixels_HWC if flip is None else cast("Pixels", cv2.flip(pixels_HWC, flip, dst=pixels_HWC))


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey: keep the high byte
        grey = (np.asarray(image, np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns, and a warning is a broken image
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), np.uint8)


def _may_be_turned(data: bytes) -> bool:
    """Whether the metadata of a JPEG (EXIF, or XMP in its stead; both in an APP1 segment) wants the picture turned."""
    try:
        if not check_segments(data):
            return False
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return bool(_exif(image).get(ExifTags.Base.Orientation, 1) != 1)
    except Exception:  # whatever it is, `decode_file` says it better
        return True
