"""Hostile and odd files, made here and never downloaded, each with the verdict that the scan must give."""

from __future__ import annotations

import io
import struct
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

USABLE = ""
HTML = b"<!DOCTYPE html><html><body><script>alert(1)</script></body></html>"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>'


@dataclass(frozen=True)
class Case:
    """A file under a key of its version. `said` is part of the reason for its quarantine; empty means usable."""

    key: str
    data: bytes
    said: str = USABLE
    orientation: int = 1


def photo(seed: int = 0, *, width: int = 96, height: int = 72, mode: str = "RGB") -> Image.Image:
    """Soft noise, which compresses as a photograph does; every seed gives another."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(seed: int, **options: object) -> bytes:
    return encoded(photo(seed), **options)


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("run.sh", "rm -rf /")
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A black 1-bit PNG of any size; 400 megapixels take 50 KB, as bombs do."""
    row = b"\0" * (1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png_chunks((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", body), (b"IEND", b""))


def png_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of (type, data) pairs."""
    framed = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def png_with(kind: bytes, data: bytes, *, seed: int) -> bytes:
    """A good PNG with one more chunk before its pixels."""
    png = encoded(photo(seed), "PNG")
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png[:33] + chunk + png[33:]


def jpeg_of_many_scans(copies: int) -> bytes:
    """A progressive JPEG that says its last scan again and again: little to store, long to decode."""
    data = encoded(Image.new("L", (6000, 6000), 128), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * copies + b"\xff\xd9"


def jpeg_claiming(width: int, height: int) -> bytes:
    """A JPEG whose header states another size than its scan has."""
    data = bytearray(jpeg(7))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def with_exif(seed: int, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = orientation, "Line 3"
    return jpeg(seed, exif=exif)


def with_comment(seed: int, comment: bytes) -> bytes:
    data = jpeg(seed)
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


def with_exif_bytes(seed: int, body: bytes) -> bytes:
    data = jpeg(seed)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 8) + b"Exif\0\0" + body + data[2:]


def ycck() -> bytes:
    """CMYK whose Adobe segment says that its first three channels are YCbCr."""
    data = bytearray(encoded(photo(41, mode="CMYK")))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def several(kind: str, seed: int, **options: object) -> bytes:
    others = [photo(seed + i) for i in range(1, 3)]
    return encoded(photo(seed), kind, save_all=True, append_images=others, **options)


def sixteen_bits(channels: int) -> bytes:
    shape = (64, 64, 3)[: 2 + (channels > 1)]
    values = np.random.default_rng(43 + channels).integers(0, 65536, shape, np.uint16)
    return bytes(cv2.imencode(".png", values)[1])


def files() -> list[Case]:
    """The files; their keys are ordinary."""
    return [*_damaged(), *_pretending(), *_polyglots(), *_bombs(), *_several_pictures(), *_odd_but_good(), *_oriented()]


def _damaged() -> list[Case]:
    whole, slow, png = jpeg(1), jpeg(2, progressive=True), encoded(photo(3), "PNG")
    tiff, webp, bmp = (encoded(photo(i), kind) for i, kind in ((4, "TIFF"), (5, "WEBP"), (6, "BMP")))
    bad_sum = png[:60] + bytes([png[60] ^ 1]) + png[61:]
    return [
        Case("cut-at-1-percent.jpg", whole[: len(whole) // 100], "no readable image"),
        Case("cut-at-50-percent.jpg", whole[: len(whole) // 2], "truncated"),
        Case("cut-last-2-bytes.jpg", whole[:-2], "truncated"),
        Case("cut-progressive.jpg", slow[: len(slow) // 2], "truncated"),
        Case("header-only.jpg", whole[: whole.index(b"\xff\xda")], "no readable image"),
        Case("cut-at-50-percent.png", png[: len(png) // 2], "truncated"),
        Case("header-only.png", png[:33], "no readable image"),
        Case("wrong-checksum.png", bad_sum, "no readable image"),
        Case("cut.tif", tiff[: len(tiff) // 2], "no readable image"),
        Case("cut.webp", webp[: len(webp) // 2], "no readable image"),
        Case("cut.bmp", bmp[: len(bmp) // 2], "truncated"),
        Case("empty.jpg", b"", "empty (0 bytes)"),
        Case("one-byte.jpg", b"\xff", "no readable image"),
        Case("zeros.jpg", bytes(4096), "no readable image"),
        Case("noise.jpg", np.random.default_rng(0).bytes(4096), "no readable image"),
    ]


def _pretending() -> list[Case]:
    return [
        Case("text.jpg", b"Dear sirs, please find the picture enclosed.", "no readable image"),
        Case("page.jpg", HTML, "This is a web page"),
        Case("drawing.jpg", SVG, "This is an SVG drawing"),
        Case("archive.jpg", archive(), "This is a ZIP archive"),
        Case("paper.jpg", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "This is a PDF"),
        Case("telephone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "This is a HEIC or AVIF picture"),
        Case("program.jpg", b"\x7fELF\x02\x01\x01" + bytes(64), "This is a program"),
        Case("still.gif.jpg", encoded(photo(8), "GIF"), "This is a GIF"),
        Case("jpeg-named.png", jpeg(9)),
        Case("png-named.jpg", encoded(photo(10), "PNG")),
        Case("UPPER.JPG", jpeg(11)),
        Case("no-extension", jpeg(12), "no image by its name"),
        Case("picture.jpg.txt", jpeg(13), "no image by its name"),
        Case("trailing-dot.jpg.", jpeg(14), "no image by its name"),
    ]


def _polyglots() -> list[Case]:
    return [
        Case("then-zip.jpg", jpeg(15) + archive(), "follow the picture's end (a ZIP archive)"),
        Case("then-page.jpg", jpeg(16) + HTML, "follow the picture's end (a web page)"),
        Case("then-zip.png", encoded(photo(17), "PNG") + archive(), "follow the picture's end (a ZIP archive)"),
        Case("then-page.webp", encoded(photo(18), "WEBP") + HTML, "follow the picture's end (a web page)"),
        Case("then-unknown.jpg", jpeg(19) + b"secret " * 300, "2099 bytes follow the picture's end"),
        Case("then-preview-and-zip.jpg", jpeg(20) + jpeg(21) + archive(), "(a ZIP archive)"),
        Case("page-in-comment.jpg", with_comment(22, HTML)),  # no program looks for a page there
        Case("then-padding.jpg", jpeg(23) + bytes(5000)),
        Case("then-preview.jpg", jpeg(24) + jpeg(25)),
        Case("then-samsung-record.jpg", jpeg(26) + b"SEFH" + bytes(range(1, 200)) + b"SEFT"),
        Case("then-film.jpg", jpeg(27) + b"\0\0\0\x18ftypmp42" + bytes(300)),
    ]


def _bombs() -> list[Case]:
    text = zlib.compress(bytes(2 * 2**20))
    huge = "megapixels; at most 50 are read"
    numbers = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 274, 4, 450_000, 26) + bytes(4 + 4 * 450_000)
    return [
        Case("bomb-169-megapixels.png", png_of(13_000, 13_000), huge),
        Case("bomb-400-megapixels.png", png_of(20_000, 20_000), huge),
        Case("bomb-by-header.jpg", jpeg_claiming(65_500, 65_500), huge),
        Case("bomb-by-scans.jpg", jpeg_of_many_scans(4000), "more than 2 s of processor time"),
        Case("bomb-ztxt.png", png_with(b"zTXt", b"Comment\0\0" + text, seed=28), "no readable image"),
        Case("bomb-itxt.png", png_with(b"iTXt", b"Comment\0\1\0\0\0" + text, seed=29), "no readable image"),
        Case("bomb-iccp.png", png_with(b"iCCP", b"icc\0\0" + text, seed=30), "no readable image"),
        Case("bomb-by-exif.png", png_with(b"eXIf", numbers, seed=88), "more than 400000 numbers"),
        Case("strip-1-by-60000.png", png_of(1, 60_000), "1 × 60000 pixels: a strip"),
        Case("strip-60000-by-1.png", png_of(60_000, 1), "60000 × 1 pixels: a strip"),
        Case("no-pixels.png", png_of(0, 0), "no readable image"),
    ]


def _several_pictures() -> list[Case]:
    three = "holds 3 pictures"
    return [
        Case("animated.apng.png", several("PNG", 31), three),
        Case("animated.gif.png", several("GIF", 34), "This is a GIF"),
        Case("animated.webp", several("WEBP", 37), three),
        Case("pages.tif", several("TIFF", 45), three),
        Case("stereo.mpo.jpg", several("MPO", 48)),  # a camera's: the first is the photograph
    ]


def _odd_but_good() -> list[Case]:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    alpha = bytes([0, 128, 255, 7])
    dotted = photo(63).quantize(4)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "good" * 100)
    return [
        Case("cmyk.jpg", encoded(photo(40, mode="CMYK"))),
        Case("ycck.jpg", ycck()),
        Case("grey.jpg", encoded(photo(42, mode="L"))),
        Case("16-bit-grey.png", sixteen_bits(1)),
        Case("16-bit-rgb.png", sixteen_bits(3)),
        Case("16-bit.tif", encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)), "TIFF")),
        Case("float.tif", encoded(photo(61, mode="F"), "TIFF"), "floating-point pixels"),
        Case("palette.png", encoded(photo(62).quantize(8), "PNG")),
        Case("palette-with-alpha.png", encoded(dotted, "PNG", transparency=alpha)),
        Case("grey-with-alpha.png", encoded(photo(64, mode="LA"), "PNG")),
        Case("rgb-with-alpha.png", encoded(photo(65, mode="RGBA"), "PNG")),
        Case("1-bit.png", encoded(photo(66, mode="1"), "PNG")),
        Case("1-bit-fax.tif", encoded(photo(67, mode="1"), "TIFF", compression="group4")),
        Case("lzw.tiff", encoded(photo(68), "TIFF", compression="tiff_lzw")),
        Case("lossless.webp", encoded(photo(69), "WEBP", lossless=True)),
        Case("plain.bmp", encoded(photo(70), "BMP")),
        Case("progressive.jpg", jpeg(71, progressive=True)),
        Case("srgb-profile.jpg", jpeg(72, icc_profile=srgb)),
        Case("srgb-profile.png", encoded(photo(73), "PNG", icc_profile=srgb)),
        Case("no-profile.jpg", jpeg(74, icc_profile=b"this is no profile" * 10)),
        Case("text.png", encoded(photo(75), "PNG", pnginfo=text)),
    ]


def _oriented() -> list[Case]:
    loop = b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"  # its EXIF directory is itself
    return [
        *(Case(f"exif-{o}.jpg", with_exif(50 + o, o), orientation=o) for o in range(1, 9)),
        Case("exif-9.jpg", with_exif(59, 9)),
        Case("exif-in-a-circle.jpg", with_exif_bytes(76, loop)),
        Case("exif-of-noise.jpg", with_exif_bytes(77, b"II*\0" + bytes(range(60))), "no readable image"),
    ]


def odd_keys() -> list[Case]:
    """Good pictures under odd keys; what is said of those that no file system can hold."""
    cafe = "café"
    return [
        Case("good/ two  spaces .jpg", jpeg(100)),
        Case(f"good/{unicodedata.normalize('NFC', cafe)}.jpg", jpeg(101)),
        Case(f"good/{unicodedata.normalize('NFD', cafe)}.jpg", jpeg(102)),
        Case("good/Case.jpg", jpeg(103)),
        Case("good/case.jpg", jpeg(104)),
        Case("good/$(touch owned); `id` & rm -rf ~ #'\".jpg", jpeg(105)),
        Case("good/100%25+a=b?c&d.jpg", jpeg(106)),
        Case("good/轮胎🛞.jpg", jpeg(107)),
        Case("good/folder.../1.jpg", jpeg(108)),
        Case("good/../../escape.jpg", jpeg(109), "leads elsewhere"),
        Case("good/./here.jpg", jpeg(110), "leads elsewhere"),
        Case("good//empty.jpg", jpeg(111), "empty folder name"),
        Case("good/new\nline.jpg", jpeg(112), "control character"),
        Case("good/\x1b[31mred.jpg", jpeg(113), "control character"),
        Case("good/trailing.jpg...", jpeg(114), "no image by its name"),
    ]
