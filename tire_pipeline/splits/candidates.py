"""Which of a million images are worth laying on one another, in time that grows with their number, not with its square.

Candidates are images with descriptors that lie side by side when all are sorted, in several orders of their bytes
(sorted neighbourhoods; Charikar, STOC 2002). Every bound below is a number an image: nothing grows with how many look
alike. What does not fit into memory at once lies in files, in buckets that are sorted one after the other.

Shapes: N images, P keypoints of each, C descriptors of some of them, D bytes of a descriptor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tire_pipeline import fingerprints
from tire_pipeline.fingerprints import DESCRIPTOR_BYTES, NUM_KEYPOINTS, Bytes

Ints = npt.NDArray[np.int64]

NUM_ORDERS = 6
NUM_NEIGHBOURS = 4  # in each order
CLOSE_BITS = 20  # of 128
VOTES_MIN = 2  # keypoints in common
CANDIDATES_MAX = 32  # of one image, those with most votes
IMAGES_AT_ONCE = 4_096
CODES_AT_ONCE = 2_000_000  # sorted together
VOTERS_AT_ONCE = 25_000  # images whose votes are counted together


class Buckets:
    """Rows of `width` 64-bit numbers in temporary files, a file a bucket."""

    def __init__(self, num: int, *, width: int) -> None:
        self.num, self._width = max(1, num), width
        self._stack = ExitStack()
        self._files = [self._stack.enter_context(TemporaryFile()) for _ in range(self.num)]  # noqa: SIM115

    def add(self, share_R: npt.NDArray[Any], rows_RW: Ints) -> None:
        """Each row to the bucket of its share, which is 0 to 1 of all there are."""
        bucket_R = (share_R * self.num).astype(np.uint16)  # which numpy sorts by its digits, in linear time
        order_R = np.argsort(bucket_R, kind="stable")
        ends = np.searchsorted(bucket_R[order_R], np.arange(self.num), side="right")
        for file, rows in zip(self._files, np.split(rows_RW[order_R], ends[:-1]), strict=True):
            file.write(rows.tobytes())

    def take(self, bucket: int) -> Ints:
        """The bucket's rows, in the order in which they came."""
        self._files[bucket].seek(0)
        return np.fromfile(self._files[bucket], np.int64).reshape(-1, self._width)

    def __enter__(self) -> Buckets:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()


def candidates(rows_NB: Bytes, distinct: Ints) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """Pairs (one < other) of fingerprints with keypoints in common, and whether it was the mirror image that had them.
    Pairs are numbers of `distinct`, which are the rows to look at."""
    num, rng = len(distinct), np.random.default_rng(0)
    num_parts = min(256, -(-2 * num * NUM_KEYPOINTS // CODES_AT_ONCE))
    with Buckets(-(-num // VOTERS_AT_ONCE), width=1) as votes:
        for _ in range(NUM_ORDERS):
            order = rng.permutation(DESCRIPTOR_BYTES)
            with Buckets(num_parts, width=3) as parts:
                for codes_C3 in _codes(rows_NB, distinct):
                    parts.add(_bytes_of(codes_C3)[:, order[0]] / 256, codes_C3)
                for part in range(parts.num):
                    for a, b in _neighbours(parts.take(part), order):
                        keys = _as_keys(a, b, num)
                        votes.add(keys // (2 * NUM_KEYPOINTS * num) / num, keys)
        found = [_counted(votes.take(bucket)[:, 0], num) for bucket in range(votes.num)]
    pairs, counts = (np.concatenate(columns) for columns in zip(*found, strict=True))
    kept = _most_voted(pairs // 2 % num, counts)
    one, other = np.divmod(pairs[kept] // 2, num)
    return one, other, pairs[kept] % 2 == 1


def _codes(rows_NB: Bytes, distinct: Ints) -> Iterator[Ints]:
    """All descriptors, a few images at a time, as rows of two words and an owner: the number of the keypoint among
    those of all images, or, of its mirror image, as much more as there are."""
    for start in range(0, len(distinct), IMAGES_AT_ONCE):
        rows = rows_NB[distinct[start : start + IMAGES_AT_ONCE]]
        there = np.flatnonzero(fingerprints.keypoints_of(rows))
        plain_CD = fingerprints.descriptors_of(rows).reshape(-1, DESCRIPTOR_BYTES)[there]
        owner = there + start * NUM_KEYPOINTS
        for codes_CD, first in (
            (plain_CD, 0),
            (fingerprints.mirror_descriptors(plain_CD), len(distinct) * NUM_KEYPOINTS),
        ):
            yield np.column_stack([codes_CD.view(np.int64), owner + first])


def _bytes_of(codes_C3: Ints) -> Bytes:
    return np.ascontiguousarray(codes_C3[:, :2]).view(np.uint8)


def _neighbours(codes_C3: Ints, order: npt.NDArray[Any]) -> Iterator[tuple[Ints, Ints]]:
    """Owners of codes that lie side by side by the first 8 bytes of this order, and differ in few bits."""
    key_C = np.ascontiguousarray(_bytes_of(codes_C3)[:, order[:8]]).view(np.uint64)[:, 0].byteswap()
    low_C, high_C, owner_C = codes_C3[np.argsort(key_C, kind="stable")].T.copy()
    low_C, high_C = low_C.view(np.uint64), high_C.view(np.uint64)
    for step in range(1, NUM_NEIGHBOURS + 1):
        bits = np.bitwise_count(low_C[:-step] ^ low_C[step:]) + np.bitwise_count(high_C[:-step] ^ high_C[step:])
        close = np.flatnonzero(bits <= CLOSE_BITS)
        yield owner_C[close], owner_C[close + step]


def _as_keys(a: Ints, b: Ints, num: int) -> Ints:
    """(one, other, mirrored, keypoint of one) in a number each; what an image has in common with itself is left out."""
    turned_a, image_a = np.divmod(a // NUM_KEYPOINTS, num)
    turned_b, image_b = np.divmod(b // NUM_KEYPOINTS, num)
    keypoint = np.where(image_a < image_b, a, b) % NUM_KEYPOINTS
    one, other = np.minimum(image_a, image_b), np.maximum(image_a, image_b)
    keys = ((one * num + other) * 2 + (turned_a != turned_b)) * NUM_KEYPOINTS + keypoint
    return np.asarray(keys[one != other], np.int64)


def _counted(keys: Ints, num: int) -> tuple[Ints, Ints]:
    """The pairs of these keys that have votes enough, with their number; a keypoint has one vote for a pair."""
    keys.sort()  # numpy's own `unique` goes by a hash table, which takes five times as long
    voted = keys[np.diff(keys, prepend=-1) > 0] // NUM_KEYPOINTS
    first = np.flatnonzero(np.diff(voted, prepend=-1))
    votes = np.diff(first, append=len(voted))
    pairs, votes = voted[first][votes >= VOTES_MIN], votes[votes >= VOTES_MIN]
    kept = _most_voted(pairs // 2 // num, votes)
    return pairs[kept], votes[kept]


def _most_voted(image: Ints, votes: Ints) -> npt.NDArray[np.bool_]:
    """Which pairs are among the CANDIDATES_MAX of their image that have most votes."""
    order = np.lexsort((-votes, image))
    start = np.searchsorted(image[order], image[order])
    kept = np.zeros(len(image), bool)
    kept[order] = np.arange(len(image)) - start < CANDIDATES_MAX
    return kept
