from __future__ import annotations

import numpy as np
import pytest

from tire_pipeline import fingerprints
from tire_pipeline.fingerprints import NUM_BYTES, fingerprint, mirror, stack, unpack
from tire_pipeline.imaging import Pixels


def photograph(seed: int = 0, *, height: int = 160, width: int = 200) -> Pixels:
    """Blobs of several sizes: as much to hold on to as a photograph has."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 90, np.float32)
    y, x = np.mgrid[:height, :width]
    for _ in range(60):
        distance = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width)) / rng.uniform(3, 12)
        pixels += (rng.uniform(-90, 90) * np.exp(-(distance**2)))[..., None]
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 3000, 3), (160, 200, 3)])
def test_images_of_any_size_have_fingerprints_of_one_length(shape: tuple[int, ...]) -> None:
    assert NUM_BYTES < 2500
    assert len(fingerprint(np.random.default_rng(0).integers(0, 256, shape, np.uint8))) == NUM_BYTES


def test_the_same_pixels_give_the_same_fingerprint() -> None:
    assert fingerprint(photograph()) == fingerprint(photograph()) != fingerprint(photograph(1))


def test_a_picture_without_detail_has_no_keypoints() -> None:
    found = unpack(stack([fingerprint(np.full((50, 50, 3), 77, np.uint8))]))
    assert not found.found_NP.any()


def test_what_is_unpacked_lies_in_its_range() -> None:
    u = unpack(stack([fingerprint(photograph(i)) for i in range(3)]))
    assert u.thumbnails_NTT.shape == (3, fingerprints.THUMBNAIL, fingerprints.THUMBNAIL)
    assert u.thumbnails_NTT.min() >= 0
    assert u.thumbnails_NTT.max() <= 15
    assert u.points_NP2.min() >= 0
    assert u.points_NP2.max() <= 1
    assert u.found_NP.any(axis=1).all()


def test_turning_a_fingerprint_round_is_nearly_taking_it_of_the_mirrored_picture() -> None:
    pixels = photograph()
    turned = mirror(unpack(stack([fingerprint(pixels)])))
    taken = unpack(stack([fingerprint(np.ascontiguousarray(pixels[:, ::-1]))]))
    assert np.abs(turned.thumbnails_NTT - taken.thumbnails_NTT).mean() < 0.2
    bits = np.bitwise_count(turned.descriptors_NPD[0][:, None] ^ taken.descriptors_NPD[0]).sum(axis=2)
    there = bits[turned.found_NP[0]][:, taken.found_NP[0]]
    assert np.median(there.min(axis=1)) <= 8


def test_mirroring_twice_changes_nothing() -> None:
    u = unpack(stack([fingerprint(photograph())]))
    twice = mirror(mirror(u))
    assert (twice.thumbnails_NTT == u.thumbnails_NTT).all()
    assert (twice.descriptors_NPD == u.descriptors_NPD).all()
    assert np.allclose(twice.points_NP2, u.points_NP2)
