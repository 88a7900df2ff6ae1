"""The side of a tyre: raised rings, serrated bands, the maker's name and the small print."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from tire_pipeline.sample.rubber import Surface, blur, coverage

if TYPE_CHECKING:
    from tire_pipeline.sample.rubber import Image

# Made up: a sample picture must not look like a statement about somebody's product.
BRANDS = ("NORDVIK", "ALTERRA", "KESTREL", "VOLTAGO", "MONTARO", "SILVANA", "HALVERSEN", "OKITSU", "BRENNA")
LINES = ("SPORT", "ECO 4", "ICE GRIP", "CITY+", "ALL SEASON", "GT-9", "CARGO", "WINTER", "TOUR")
SIZES = ("205/55 R16 91V", "195/65 R15 91H", "225/45 R17 94W", "185/60 R14 82T", "235/40 R18 95Y", "175/70 R13 82T")
SMALL_PRINT = ("TUBELESS", "RADIAL", "M+S", "OUTSIDE", "MAX LOAD 615 KG", "STEEL BELTED", "DOT X4K9 2123", "EXTRA LOAD")
CAPITAL_PX = 22  # of OpenCV's fonts at scale 1
FONTS = (cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SIMPLEX)


def draw_sidewall(rng: np.random.Generator, *, px_per_unit: float) -> tuple[Surface, float]:
    """(surface, rim radius): row 0 is the outer edge at radius 1, the last row lies on the rim."""
    rim_radius = float(rng.uniform(0.56, 0.66))
    rows = round((1 - rim_radius) * px_per_unit)
    columns = round(np.pi * (1 + rim_radius) * px_per_unit)
    surface = Surface.plain(rng, (rows, columns), px_per_unit)
    raised = np.zeros((rows, columns), np.float32)
    raise_rings(raised, rng)
    raise_shoulder(raised, rng)
    raise_band(raised, rng)
    letters = write_letters(rng, (rows, columns))
    surface.height_HW += 0.009 * blur(raised, 0.7)
    surface.height_HW += 0.012 * blur(letters, 0.8)
    if rng.random() < 0.25:  # outlined white letters
        surface.albedo_HWC += 0.3 * letters[..., None]
    else:
        surface.albedo_HWC *= 1 + 0.45 * letters[..., None]  # the tops are scuffed pale
    return surface, rim_radius


def raise_rings(raised: Image, rng: np.random.Generator) -> None:
    """Concentric lines, and the two thick ones that every tyre has: the rim protector and the shoulder."""
    rows = raised.shape[0]
    for at in (0.115, rng.uniform(0.86, 0.92), *rng.uniform(0.14, 0.9, rng.integers(1, 4))):
        thick = max(1, round(rows * rng.uniform(0.008, 0.022)))
        row = round(at * rows)
        raised[row : row + thick] += rng.uniform(0.6, 1.1)


def raise_shoulder(raised: Image, rng: np.random.Generator) -> None:
    """The ends of the tread blocks, seen from the side."""
    rows, columns = raised.shape
    phase = np.arange(columns) / columns * rng.integers(46, 80) % 1
    depth = round(rows * rng.uniform(0.07, 0.11))
    raised[:depth] += np.where(phase < rng.uniform(0.5, 0.7), 1.5, -1.5).astype(np.float32)


def raise_band(raised: Image, rng: np.random.Generator) -> None:
    """A band of fine radial ribs, whole or broken into arcs."""
    rows, columns = raised.shape
    turn = np.arange(columns) / columns
    ribs = 0.5 + 0.5 * np.sin(2 * np.pi * turn * rng.integers(150, 260))
    arcs = (turn * rng.integers(2, 6) + rng.random()) % 1 < rng.choice([0.45, 0.7, 1.0])
    top = round(rows * rng.choice([0.14, 0.7]))
    band = round(rows * rng.uniform(0.07, 0.14))
    raised[top : top + band] += (0.8 * ribs * arcs).astype(np.float32)


def write_letters(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """The mask (0..1) of everything that is written: big around the middle, small print near the rim."""
    rows, columns = shape
    ink = np.zeros(shape, np.uint8)
    repeats = int(rng.integers(2, 4))
    brand, line, size = (str(rng.choice(words)) for words in (BRANDS, LINES, SIZES))
    font = int(rng.choice(FONTS))
    base = rows * rng.uniform(0.58, 0.64)
    words = ((brand, rows * rng.uniform(0.27, 0.34)), (size, rows * 0.2), (line, rows * 0.22))
    slot = columns / repeats
    room = slot - sum(width_px(text, cap, font) for text, cap in words)
    squeeze = min(1.0, slot / (slot - room) * 0.9)  # long names are set smaller rather than on top of each other
    space = (slot - (slot - room) * squeeze) / len(words)
    x = rng.uniform(0, slot)
    for text, cap in words * repeats:
        x = write(ink, text, (x, base), cap * squeeze, font) + space
    for x in np.arange(rng.uniform(0, 0.05), 1, rng.uniform(0.1, 0.16)):
        write(ink, str(rng.choice(SMALL_PRINT)), (x * columns, rows * 0.82), rows * 0.09, cv2.FONT_HERSHEY_SIMPLEX)
    return coverage(ink)


def write(ink: np.ndarray, text: str, at: tuple[float, float], cap_px: float, font: int) -> float:
    """Write `text` from the column on, going once around the tyre if need be; the column after it (unwrapped)."""
    columns = ink.shape[1]
    for x in (at[0] % columns, at[0] % columns - columns):
        position = (round(x), round(at[1]))
        cv2.putText(ink, text, position, font, cap_px / CAPITAL_PX, 255, weight(cap_px), cv2.LINE_AA)
    return at[0] + width_px(text, cap_px, font)


def width_px(text: str, cap_px: float, font: int) -> int:
    """How long `text` is when its capitals are `cap_px` high."""
    return int(cv2.getTextSize(text, font, cap_px / CAPITAL_PX, weight(cap_px))[0][0])


def weight(cap_px: float) -> int:
    """The thickness of a line of a letter in pixels."""
    return max(1, round(cap_px / 9))
