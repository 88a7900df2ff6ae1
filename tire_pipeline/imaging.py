"""Decoding and preprocessing, one way for training, evaluation and serving. numpy and cv2 alone, no torch.

Shapes: H height, W width, C channels (RGB). Pixels are uint8 0..255 until `normalise`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from tire_pipeline.errors import InputError

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 50_000_000
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the model's input: resize to height × width (no crop), then (x/255 − mean)/std per channel."""

    height: int
    width: int
    mean: tuple[float, float, float] = field(default=IMAGENET_MEAN)
    std: tuple[float, float, float] = field(default=IMAGENET_STD)


@dataclass(frozen=True)
class Decoded:
    """An image and what its file said of it. `camera` is the EXIF model, empty where there is none."""

    pixels: Pixels
    format: str
    mode: str
    camera: str


def decode_file(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Upright RGB pixels (H, W, 3) of an encoded image, with its format.

    Raises InputError for anything that is no image of the allowed formats, is truncated, or is larger than
    `max_pixels`. Pillow's `load` finds truncation that `verify` lets through. Safe to call from several
    threads, so no warning filter is set here: those are the whole process'.
    """
    if not data:
        raise InputError("The file is empty (0 bytes). Export the picture again.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, max_pixels)
            camera = str(image.getexif().get(0x0110, "")).strip("\0 ")
            upright = ImageOps.exif_transpose(image)
            return Decoded(_rgb(upright), image.format or "", image.mode, camera)
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise what they like: OSError, SyntaxError, struct.error, …
        reason = str(error).split("<_io")[0].strip() or type(error).__name__
        raise InputError(
            f"This is no readable image ({reason}). Allowed are {', '.join(FORMATS)}; save the picture again."
        ) from error


def decode(data: bytes) -> Pixels:
    """Upright RGB pixels (H, W, 3). Raises InputError, see `decode_file`."""
    return decode_file(data).pixels


def resize(pixels_HWC: Pixels, *, height: int, width: int) -> Pixels:
    """Area interpolation when shrinking, linear when growing: no aliasing of thin cracks either way."""
    if pixels_HWC.shape[:2] == (height, width):
        return pixels_HWC
    shrinks = pixels_HWC.shape[0] >= height and pixels_HWC.shape[1] >= width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cast("Pixels", cv2.resize(pixels_HWC, (width, height), interpolation=method))


def normalise(pixels_BHWC: Pixels, spec: Preprocessing) -> npt.NDArray[np.float32]:
    """(B, H, W, C) uint8 to (B, C, H, W) float32, by the spec's mean and standard deviation."""
    scale = 1.0 / (255.0 * np.asarray(spec.std, np.float32))
    shift = np.asarray(spec.mean, np.float32) / np.asarray(spec.std, np.float32)
    x_BHWC = pixels_BHWC.astype(np.float32) * scale.astype(np.float32) - shift
    return np.ascontiguousarray(x_BHWC.transpose(0, 3, 1, 2))


def prepare(pixels_HWC: Pixels, spec: Preprocessing) -> npt.NDArray[np.float32]:
    """One decoded image as the model's input, (C, H, W) float32."""
    resized = resize(pixels_HWC, height=spec.height, width=spec.width)
    return cast("npt.NDArray[np.float32]", normalise(resized[None], spec)[0])


def brightness(pixels_HWC: Pixels) -> float:
    """Mean grey level, 0 (black) to 255 (white)."""
    return float(_grey(pixels_HWC).mean())


def contrast(pixels_HWC: Pixels) -> float:
    """Standard deviation of the grey level, 0 to 127.5."""
    return float(_grey(pixels_HWC).std())


def sharpness(pixels_HWC: Pixels) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al., ICPR 2000), measured at 256 pixels a side; low is blurred."""
    small = resize(_grey(pixels_HWC), height=256, width=256)
    return float(cv2.Laplacian(small, cv2.CV_64F).var())


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


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise InputError(
            f"The image has {width} × {height} = {width * height / 1e6:.0f} megapixels; "
            f"at most {max_pixels / 1e6:.0f} are read. Scale it down."
        )


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey: keep the high byte
        grey = (np.asarray(image, np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns, and a warning is a broken image
    return np.array(image.convert("RGB"), np.uint8)
