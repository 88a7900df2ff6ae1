"""What is trained on, and how a step gets it: images, augmented as they are read, or what the part of a network that
does not learn says of them. Tensor names carry shapes: B batch, C channels, H height, W width, F features, K classes,
N images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tire_pipeline.datasets.cache import Images
from tire_pipeline.metrics import Ints
from tire_pipeline.models import FLIPS, Classifier, agree, lay
from tire_pipeline.training.augment import UNCOLOURED, colour, draw_moves, normalise_
from tire_pipeline.training.batches import draw_boxes, load, seed_of
from tire_pipeline.training.config import TrainingConfig

CPU = torch.device("cpu")
MEASURED_AT_ONCE = 64
KEPT_MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class Examples:
    """Images uint8 (N, H, W, 3) with class indices (N,), and the rows that are trained on and validated with.

    `paths` (N,) name the images to people, where they have names. `membership_KV` says what the classes combine, where
    they combine the values of several labels. `kept` may be shared by trainings that start from the same weights.
    """

    images_NHWC: Images
    labels_N: Ints
    train: Ints
    val: Ints
    num_classes: int
    paths: Sequence[str] = ()
    membership_KV: Sequence[Sequence[bool]] | None = None
    kept: KeptFeatures = field(default_factory=lambda: KeptFeatures())

    def names(self, rows: Ints) -> str:
        return ", ".join(str(self.paths[row]) if len(self.paths) else f"row {row}" for row in rows)


class Source(Protocol):
    """Where the inputs of a step come from, and which part of the model takes them."""

    def part(self, model: Classifier) -> nn.Module:
        """What of the model is trained."""

    def batches(self, epoch: int, *, done: int) -> Iterator[tuple[Ints, Tensor]]:
        """Rows and what was read for them, of the epoch's batches after the first `done`."""

    def inputs(self, read: Tensor, dice: torch.Generator) -> Tensor:
        """What was read as an input of `part`."""

    def logits(self, model: Classifier, rows: Ints) -> Tensor:
        """What the model says of the rows, unaugmented; float32 on the CPU."""


@dataclass(frozen=True)
class FromImages:
    """Images, in an order, cuts, moves and colours that follow from seed and epoch."""

    examples: Examples
    config: TrainingConfig
    model: Classifier
    device: torch.device

    def part(self, model: Classifier) -> nn.Module:
        return model

    def batches(self, epoch: int, *, done: int) -> Iterator[tuple[Ints, Tensor]]:
        """Images are uint8 (B, C, H, W)."""
        config, images_NHWC = self.config, self.examples.images_NHWC
        parts, generator = _shuffled(self.examples.train, config, epoch)
        boxes, (height, width) = None, images_NHWC.shape[1:3]
        if config.augmentation == "crop":
            boxes = [draw_boxes(len(rows), height=height, width=width, generator=generator) for rows in parts]
            boxes = boxes[done:]
        draw = partial(draw_moves, policy=config.augmentation, height=height, width=width, generator=generator)
        moves = [draw(len(rows)) for rows in parts]
        parts, moves = parts[done:], moves[done:]
        return zip(parts, load(images_NHWC, parts, boxes=boxes, moves=moves, device=self.device), strict=True)

    def inputs(self, read: Tensor, dice: torch.Generator) -> Tensor:
        x_BCHW = colour(read.to(self.device), policy=self.config.augmentation, generator=dice)
        return normalise_(x_BCHW, mean=self.model.mean, std=self.model.std)

    def logits(self, model: Classifier, rows: Ints) -> Tensor:
        return predict_logits(model, self.examples.images_NHWC, rows, self.device)


class KeptFeatures:
    """What the part of a network that does not learn says of images, computed once for each image and view."""

    def __init__(self) -> None:
        self._by_view: dict[tuple[bool, int], tuple[Tensor, npt.NDArray[np.bool_]]] = {}

    def of(self, model: Classifier, view: int, rows: Ints, *, images_NHWC: Images, device: torch.device) -> Tensor:
        """(N, …) of all images, right at `rows` at least; those that are not known yet are computed."""
        key = (model.frozen, view)
        num_images = len(images_NHWC)
        kept, known_N = self._by_view.get(key, (torch.empty(0), np.zeros(num_images, bool)))
        lacking = rows[~known_N[rows]]
        if len(lacking):
            measured = _measure(model, lambda x_BCHW: model.still(lay(x_BCHW, view)), images_NHWC, lacking, device)
            if not kept.numel():
                kept = measured.new_empty(num_images, *measured.shape[1:])
            kept[torch.from_numpy(lacking)], known_N[lacking] = measured, True
            self._by_view[key] = kept, known_N
        return kept


class FromFeatures:
    """What the still part of the network says, kept: of a frozen backbone an epoch then takes no time to speak of.

    Where training images are flipped, each is kept in all views, and a step sees it in one by chance.
    """

    def __init__(self, examples: Examples, config: TrainingConfig, model: Classifier, device: torch.device) -> None:
        self.examples, self.config, self.device = examples, config, device
        self.training_views = _training_views(config)
        train, both = examples.train, np.concatenate([examples.train, examples.val])
        of = partial(examples.kept.of, model, images_NHWC=examples.images_NHWC, device=device)
        self.kept = [
            of(view, both if view < config.views else train) for view in range(max(self.training_views, config.views))
        ]

    def part(self, model: Classifier) -> nn.Module:
        return model.learning()

    def batches(self, epoch: int, *, done: int) -> Iterator[tuple[Ints, Tensor]]:
        parts, generator = _shuffled(self.examples.train, self.config, epoch)
        views = [torch.randint(self.training_views, (len(rows),), generator=generator).tolist() for rows in parts]
        return ((rows, self._in_views(rows, laid)) for rows, laid in zip(parts[done:], views[done:], strict=True))

    def inputs(self, read: Tensor, dice: torch.Generator) -> Tensor:
        return read.to(self.device)

    @torch.inference_mode()
    def logits(self, model: Classifier, rows: Ints) -> Tensor:
        model.eval()
        learning = model.learning()
        parts = [torch.from_numpy(part) for part in split_batches(rows, MEASURED_AT_ONCE)]
        views = self.kept[: model.views]
        answers = [agree([learning(kept[part].to(self.device)) for kept in views]) for part in parts]
        return torch.cat(answers).float().cpu()

    def _in_views(self, rows: Ints, views: Sequence[int]) -> Tensor:
        return torch.stack([self.kept[view][row] for view, row in zip(views, rows.tolist(), strict=True)])


def make_source(examples: Examples, config: TrainingConfig, model: Classifier, device: torch.device) -> Source:
    """What the still part says, where it says but little in all epochs; otherwise images."""
    few_views = config.augmentation in UNCOLOURED and config.mixing == "none"
    if model.has_still_part and few_views and _kept_bytes(examples, config, model, device) <= KEPT_MAX_BYTES:
        return FromFeatures(examples, config, model, device)
    return FromImages(examples, config, model, device)


def _training_views(config: TrainingConfig) -> int:
    return FLIPS if config.augmentation == "flips" else 1


def _kept_bytes(examples: Examples, config: TrainingConfig, model: Classifier, device: torch.device) -> int:
    """What `FromFeatures` would hold in memory: four bytes a number."""
    one = _measure(model, model.still, examples.images_NHWC, examples.train[:1], device)
    return 4 * one.numel() * len(examples.images_NHWC) * max(_training_views(config), config.views)


def predict_logits(model: Classifier, images_NHWC: Images, rows: Ints, device: torch.device = CPU) -> Tensor:
    """Logits (len(rows), K) of the rows, float32 on the CPU; the model is left in evaluation mode."""
    return _measure(model, model, images_NHWC, rows, device)


def split_batches(rows: Ints, size: int) -> Iterator[Ints]:
    """Near-equal parts of at most `size` (3 where it is 2): none of one image, which batch norm cannot take."""
    yield from np.array_split(rows, num_batches(len(rows), size))


def num_batches(num_images: int, size: int) -> int:
    return max(1, min(math.ceil(num_images / size), num_images // 2))


def _shuffled(train: Ints, config: TrainingConfig, epoch: int) -> tuple[list[Ints], torch.Generator]:
    """The epoch's batches, and the generator that shuffled them."""
    generator = torch.Generator().manual_seed(seed_of(config.seed, epoch, "images"))
    order = train[torch.randperm(len(train), generator=generator).numpy()]
    return list(split_batches(order, config.batch_size)), generator


@torch.inference_mode()
def _measure(
    model: Classifier, function: Callable[[Tensor], Tensor], images_NHWC: Images, rows: Ints, device: torch.device
) -> Tensor:
    """What the function says of the images as they are, float32 on the CPU."""
    model.eval()
    loaded = load(images_NHWC, list(split_batches(rows, MEASURED_AT_ONCE)), device=device)
    inputs = (normalise_(x_BCHW.to(device).float(), mean=model.mean, std=model.std) for x_BCHW in loaded)
    return torch.cat([function(x_BCHW).float().cpu() for x_BCHW in inputs])
