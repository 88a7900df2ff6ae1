"""What an epoch shows, in which order and cut how: all of it follows from (seed, epoch), whatever was drawn before.

A training that is resumed at an epoch therefore sees what the uninterrupted one saw there.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tire_pipeline.datasets.cache import Images
from tire_pipeline.datasets.remote import RemoteImages
from tire_pipeline.imaging import Pixels
from tire_pipeline.metrics import Ints
from tire_pipeline.training.augment import move

AHEAD = 2
CROP_AREA = (0.35, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)


def seed_of(seed: int, epoch: int, use: str) -> int:
    """The seed of one use of chance in one epoch, 0 to 2^63 - 1; neighbouring ones have nothing in common."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{use}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def load(
    images_NHWC: Images,
    parts: Sequence[Ints],
    *,
    boxes: Sequence[npt.NDArray[np.int64]] | None = None,
    moves: Sequence[npt.NDArray[np.int64] | None] | None = None,
    device: torch.device | None = None,
) -> Iterator[Tensor]:
    """The rows of each part as uint8 (B, C, H, W) in channels-last memory, read by a thread up to two parts ahead.

    Cached images for a device that is this CPU are read when they are wanted: a thread would only compete with it, and
    its batches would have left the processor's cache when they are used.

    With `boxes` (see `draw_boxes`), one array a part, images are cut to them and brought back to their size; with
    `moves` (see `augment.draw_moves`) they are then flipped, turned and shifted.
    """

    def read(number: int) -> Tensor:
        part_boxes = None if boxes is None else boxes[number]
        part_moves = None if moves is None else moves[number]
        if part_boxes is None and part_moves is None:
            batch_BHWC = np.ascontiguousarray(images_NHWC[parts[number]])
        else:
            batch_BHWC = cut_and_move(_images_of(images_NHWC, parts[number]), part_boxes, part_moves)
        return torch.from_numpy(batch_BHWC).permute(0, 3, 1, 2)

    if device is not None and device.type == "cpu" and not isinstance(images_NHWC, RemoteImages):
        yield from map(read, range(len(parts)))
        return
    pending: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
        try:
            for number in range(len(parts)):
                pending.append(reader.submit(read, number))
                if len(pending) > AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def draw_boxes(num_images: int, *, height: int, width: int, generator: torch.Generator) -> npt.NDArray[np.int64]:
    """Where to cut each image: (N, 4) of top, left, height, width, inside height × width.

    Random resized crop (Szegedy et al., CVPR 2015, §6): 35 to 100 % of the area, sides 3:4 to 4:3 of the image's own.
    The usual 8 % would often cut away the defect that the label speaks of.
    """
    area, ratio, top, left = torch.rand(4, num_images, generator=generator, dtype=torch.float64).numpy()
    area = CROP_AREA[0] + area * (CROP_AREA[1] - CROP_AREA[0])
    low, high = np.log(CROP_RATIO)
    stretch = np.exp(low + ratio * (high - low)) ** 0.5
    heights = np.clip(np.rint(height * area**0.5 / stretch), 1, height)
    widths = np.clip(np.rint(width * area**0.5 * stretch), 1, width)
    tops, lefts = np.rint(top * (height - heights)), np.rint(left * (width - widths))
    return np.stack([tops, lefts, heights, widths], axis=1).astype(np.int64)


def cut_and_move(
    images_HWC: Sequence[Pixels], boxes_B4: npt.NDArray[np.int64] | None, moves_B5: npt.NDArray[np.int64] | None
) -> Pixels:
    """(B, H, W, C): each image's box, brought to the size of the images by linear interpolation, and moved."""
    height, width = images_HWC[0].shape[:2]
    made_BHWC = np.empty((len(images_HWC), height, width, 3), np.uint8)
    boxes = [None] * len(images_HWC) if boxes_B4 is None else boxes_B4.tolist()
    moves = [None] * len(images_HWC) if moves_B5 is None else moves_B5.tolist()
    for image_HWC, box, way, out_HWC in zip(images_HWC, boxes, moves, made_BHWC, strict=True):
        cut_HWC = image_HWC
        if box is not None:
            top, left, h, w = box
            aim_HWC = out_HWC if way is None else None
            inside_HWC = image_HWC[top : top + h, left : left + w]
            cut_HWC = cast("Pixels", cv2.resize(inside_HWC, (width, height), dst=aim_HWC))  # linear
        if way is not None:
            move(cut_HWC, way, out_HWC)
    return made_BHWC


def _images_of(images_NHWC: Images, rows: Ints) -> Sequence[Pixels]:
    """The images one by one: of an array without copying them, of shards in one round of requests."""
    if isinstance(images_NHWC, RemoteImages):
        return list(images_NHWC[rows])
    pixels_NHWC = images_NHWC.view(np.ndarray)  # indexing a memmap makes a memmap, which takes longer than the copy
    return [pixels_NHWC[row] for row in rows.tolist()]
