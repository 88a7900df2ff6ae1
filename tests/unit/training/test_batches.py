from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from tire_pipeline.imaging import Preprocessing, normalise
from tire_pipeline.training.augment import colour, draw_moves, move, normalise_
from tire_pipeline.training.batches import AHEAD, cut_and_move, draw_boxes, load, seed_of

IMAGES_NHWC = np.random.default_rng(0).integers(0, 256, (10, 24, 32, 3), np.uint8)
PARTS = [np.array([3, 1]), np.array([9, 0, 4]), np.array([2])]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_epoch_of_every_seed_and_use_draws_its_own_numbers_again_and_again() -> None:
    seeds = {seed_of(s, e, u) for s in range(30) for e in range(30) for u in ("images", "dropout")}
    assert len(seeds) == 1800
    assert seed_of(4, 7, "images") == seed_of(4, 7, "images")
    assert all(0 <= s < 2**63 for s in seeds)


def test_parts_come_in_order_as_uint8_in_channels_last_memory() -> None:
    batches = list(load(IMAGES_NHWC, PARTS))
    for x_BCHW, rows in zip(batches, PARTS, strict=True):
        assert x_BCHW.dtype == torch.uint8
        assert x_BCHW.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(x_BCHW.permute(0, 2, 3, 1).numpy(), IMAGES_NHWC[rows])


class Counting(np.ndarray):
    """Images that remember which thread read them how often."""

    read: list[str]

    def __getitem__(self, rows):  # type: ignore[no-untyped-def]
        if isinstance(rows, np.ndarray):
            self.read.append(threading.current_thread().name)
        return np.asarray(self)[rows]


def test_a_thread_reads_ahead_but_no_further_than_two_parts() -> None:
    images = IMAGES_NHWC.view(Counting)
    images.read = []
    many = [np.array([i % 10]) for i in range(50)]
    loaded = load(images, many)
    next(loaded)
    assert len(images.read) <= 1 + AHEAD + 1
    loaded.close()  # an epoch that ends early leaves no thread behind
    assert all(name.startswith("batches") for name in images.read)
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]
    assert len(images.read) <= 1 + AHEAD + 1


def test_cached_images_for_this_cpu_are_read_when_they_are_wanted() -> None:
    images = IMAGES_NHWC.view(Counting)
    images.read = []
    before = threading.active_count()
    loaded = load(images, PARTS, device=torch.device("cpu"))
    assert np.array_equal(next(loaded).permute(0, 2, 3, 1).numpy(), IMAGES_NHWC[PARTS[0]])
    assert threading.active_count() == before
    assert images.read == ["MainThread"]


def test_what_cannot_be_read_is_raised_where_the_batch_is_wanted() -> None:
    loaded = load(IMAGES_NHWC, [np.array([0]), np.array([99])])
    next(loaded)
    with pytest.raises(IndexError):
        next(loaded)


def test_boxes_lie_inside_have_the_area_and_ratio_promised_and_follow_the_seed() -> None:
    boxes = draw_boxes(4000, height=240, width=320, generator=generator())
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 240).all() and (left + width <= 320).all()
    area, ratio = height * width / (240 * 320), (width / 320) / (height / 240)
    assert 0.33 < area.min() < 0.4 and area.max() > 0.95
    assert 0.72 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.38
    assert np.array_equal(boxes, draw_boxes(4000, height=240, width=320, generator=generator()))
    assert not np.array_equal(boxes, draw_boxes(4000, height=240, width=320, generator=generator(1)))


def test_a_box_is_brought_to_the_size_of_the_image() -> None:
    images = np.zeros((2, 24, 32, 3), np.uint8)
    images[0, 6:12, 8:16] = 200
    images[1] = 90
    made = cut_and_move(images, np.array([[6, 8, 6, 8], [0, 0, 24, 32]]), None)
    assert (made[0] == 200).all()
    assert (made[1] == 90).all()
    (x_BCHW,) = load(images, [np.array([0, 1])], boxes=[np.array([[6, 8, 6, 8], [0, 0, 24, 32]])])
    assert np.array_equal(x_BCHW.permute(0, 2, 3, 1).numpy(), made)


def moved(image_HWC: np.ndarray, *way: int) -> np.ndarray:
    out_HWC = np.empty_like(image_HWC)
    move(image_HWC, way, out_HWC)
    return out_HWC


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 0), (0, -3), (-2, 3), (1, 1)])
def test_a_shifted_image_is_the_image_with_its_reflection_at_the_border(down: int, right: int) -> None:
    image = IMAGES_NHWC[0]
    padded = np.pad(image, ((2, 2), (3, 3), (0, 0)), mode="reflect")
    assert np.array_equal(moved(image, 0, 0, 0, down, right), padded[2 - down : 26 - down, 3 - right : 35 - right])


def test_flips_and_turns_lay_a_square_in_all_eight_ways() -> None:
    image = IMAGES_NHWC[0, :, :24]
    ways = [(m, u, t) for m in (0, 1) for u in (0, 1) for t in (0, 1)]
    for mirrored, upended, turned in ways:
        expected = image.transpose(1, 0, 2) if turned else image
        expected = expected[:: -1 if upended else 1, :: -1 if mirrored else 1]
        assert np.array_equal(moved(image, mirrored, upended, turned, 0, 0), expected)
    assert len({moved(image, *way, 0, 0).tobytes() for way in ways}) == 8


def test_moves_follow_the_seed_and_the_policy() -> None:
    def drawn(policy: str, width: int = 100, seed: int = 0) -> np.ndarray | None:
        return draw_moves(400, policy=policy, height=100, width=width, generator=generator(seed))

    light, crop, oblong = drawn("light"), drawn("crop"), drawn("light", width=120)
    assert drawn("none") is None
    assert light is not None and crop is not None and oblong is not None
    assert all(150 < n < 250 for n in light[:, :3].sum(axis=0))
    assert (light[:, 3:].min(), light[:, 3:].max()) == (-8, 8)
    assert not crop[:, 3:].any()  # its images were cut
    assert not oblong[:, 2].any()  # what is turned keeps its size
    assert np.array_equal(light, drawn("light"))
    assert not np.array_equal(light, drawn("light", seed=1))


def test_images_are_cut_and_moved_as_they_are_read_and_the_cache_is_never_written_to() -> None:
    before, boxes, moves = IMAGES_NHWC.copy(), np.array([[6, 8, 6, 8]]), np.array([[1, 0, 0, 1, -2]])
    (x_BCHW,) = load(IMAGES_NHWC, [np.array([4])], boxes=[boxes], moves=[moves])
    (cut_BCHW,) = load(IMAGES_NHWC, [np.array([4])], boxes=[boxes])
    assert x_BCHW.is_contiguous(memory_format=torch.channels_last)
    cut_HWC = np.ascontiguousarray(cut_BCHW[0].permute(1, 2, 0).numpy())
    assert np.array_equal(x_BCHW[0].permute(1, 2, 0).numpy(), moved(cut_HWC, 1, 0, 0, 1, -2))
    assert np.array_equal(IMAGES_NHWC, before)


@pytest.mark.parametrize("policy", ["none", "light", "crop"])
def test_coloured_images_are_float_in_range_and_follow_the_seed(policy: str) -> None:
    x_BCHW = torch.from_numpy(IMAGES_NHWC).permute(0, 3, 1, 2)
    made = colour(x_BCHW, policy=policy, generator=generator(1))
    assert made.dtype == torch.float32 and made.shape == x_BCHW.shape
    assert made.min() >= 0 and made.max() <= 255
    assert torch.equal(made, colour(x_BCHW, policy=policy, generator=generator(1)))
    assert torch.equal(made, x_BCHW.float()) == (policy == "none")
    assert torch.equal(made, colour(x_BCHW, policy=policy, generator=generator(2))) == (policy == "none")


def test_training_normalises_as_serving_does() -> None:
    x_BCHW = torch.from_numpy(IMAGES_NHWC).permute(0, 3, 1, 2)
    expected = normalise(IMAGES_NHWC, Preprocessing(24, 32))
    made = normalise_(x_BCHW.float())
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert np.allclose(made.numpy(), expected, rtol=0, atol=1e-6)
