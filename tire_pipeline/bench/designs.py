"""Designs that run in our own environment: `python -m tire_pipeline.bench.designs DESIGN WORK HEIGHT WIDTH`.

Each measures one thing in a process of its own and prints a `Run` as JSON. WORK is what `loader.prepare` made; S3 is
that of the settings. Imports, clients and the first connection are not counted.

naive, imagefolder  end with float32 (B, C, H, W), normalised
cold, warm_*        end with uint8 (B, C, H, W), cut and flipped. What the device does then (brightness, contrast,
                    normalisation to float32) is done and counted apart, on this CPU, as `device_cpu_s`.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
import simplejpeg
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from tire_pipeline.bench.measure import Clock, Run
from tire_pipeline.datasets.cache import ImageCache, Images, open_images
from tire_pipeline.imaging import IMAGENET_MEAN, IMAGENET_STD
from tire_pipeline.settings import load_settings
from tire_pipeline.stores.objects import connect
from tire_pipeline.training.augment import colour, draw_moves, normalise_
from tire_pipeline.training.batches import draw_boxes, load

BATCH_SIZE = 64
WARM_EPOCHS = 3
PREFIX = "datasets/bench/"
SNAPSHOT = "bench"
RESIZE = "stretch"


def cold(work: Path, height: int, width: int) -> Run:
    """The first epoch on a host: shards fetched, compared with their sha256, decoded, written to the cache; read."""
    index, store = pd.read_parquet(work / "index.parquet"), connect(load_settings())
    store.head(PREFIX)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        clock = Clock()
        images = open_images(
            store, index, height=height, width=width, how=RESIZE, cache=ImageCache(Path(folder)), name=SNAPSHOT
        )
        device_cpu_s = _epoch(images, "light", seed=0)
        run = clock.run(len(index))
    return _apart(run, device_cpu_s)


def warm_random_resized_crop(work: Path, height: int, width: int) -> Run:
    """Later epochs of policy `crop`, from the cache: cut out, brought back to size, flipped, turned."""
    return _warm(work, "crop", height, width)


def warm_crop(work: Path, height: int, width: int) -> Run:
    """Later epochs of policy `light` as images that are not square have it: cut out up to 8 % away, and flipped."""
    return _warm(work, "light", height, width, turns=False)


def warm_light(work: Path, height: int, width: int) -> Run:
    """Later epochs of policy `light`: half of the images turned as well."""
    return _warm(work, "light", height, width)


def naive(work: Path, height: int, width: int) -> Run:
    """The bucket listed, then get_object, PIL and a float transform for each image, one after the other."""
    settings, transform, client = load_settings(), _transform(height, width), s3_client()
    client.head_bucket(Bucket=settings.bucket)
    clock, images = Clock(), 0
    keys = [
        item["Key"]
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=settings.bucket, Prefix=PREFIX)
        for item in page["Contents"]
    ]
    for start in range(0, len(keys), BATCH_SIZE):
        answers = (client.get_object(Bucket=settings.bucket, Key=key) for key in keys[start : start + BATCH_SIZE])
        pictures = (Image.open(io.BytesIO(answer["Body"].read())).convert("RGB") for answer in answers)
        images += len(torch.stack([transform(picture) for picture in pictures]))
    return clock.run(images)


def imagefolder(work: Path, height: int, width: int) -> Run:
    """torchvision's ImageFolder on the local disk, a worker a core."""
    dataset = datasets.ImageFolder(str(work / "pictures"), _transform(height, width))
    clock = Clock()
    batches = DataLoader(dataset, BATCH_SIZE, num_workers=len(os.sched_getaffinity(0)))
    return clock.run(sum(len(x) for x, _ in batches))


def decode_alone(work: Path, _height: int, _width: int) -> Run:
    """The limit of every design that decodes: libjpeg-turbo at its exact settings, nothing around it."""
    encoded = [path.read_bytes() for path in sorted((work / "pictures").rglob("*.jp*g"))]
    clock = Clock()
    for data in encoded:
        simplejpeg.decode_jpeg(data, "RGB")
    return clock.run(len(encoded))


def memcpy_alone(work: Path, height: int, width: int) -> Run:
    """The limit of every design that does not decode: one copy of a decoded image into a batch that is there."""
    images = np.asarray(_cached(work, height, width))
    batch = np.empty((BATCH_SIZE, *images.shape[1:]), np.uint8)
    rows = np.random.default_rng(0).permutation(len(images)).tolist()
    clock = Clock()  # replaced after a first epoch, as in `_warm`
    for epoch in range(1 + WARM_EPOCHS):
        clock = Clock() if epoch == 1 else clock
        for number, row in enumerate(rows):
            batch[number % BATCH_SIZE] = images[row]
    return clock.run(WARM_EPOCHS * len(rows))


DESIGNS: dict[str, Callable[[Path, int, int], Run]] = {
    "cold": cold,
    "warm_random_resized_crop": warm_random_resized_crop,
    "warm_crop": warm_crop,
    "naive": naive,
    "imagefolder": imagefolder,
    "ours, light with turns": warm_light,
    "limit: decode": decode_alone,
    "limit: memcpy": memcpy_alone,
}


def s3_client() -> Any:
    """boto3's, as the settings say."""
    settings = load_settings()
    secret, key_id = settings.s3_secret_access_key, settings.s3_access_key_id
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=key_id.get_secret_value() if key_id else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
    )


def _warm(work: Path, policy: str, height: int, width: int, *, turns: bool = True) -> Run:
    images = _cached(work, height, width)
    _epoch(images, policy, seed=0, turns=turns)  # maps the pages, as the first epoch of a training does
    clock = Clock()
    device_cpu_s = sum(_epoch(images, policy, seed=seed, turns=turns) for seed in range(1, 1 + WARM_EPOCHS))
    return _apart(clock.run(WARM_EPOCHS * len(images)), device_cpu_s)


def _epoch(images_NHWC: Images, policy: str, *, seed: int, turns: bool = True) -> float:
    """One epoch as `training.loop` has it, but for the model; the CPU seconds that the device's part took."""
    device_cpu_s, (num_images, height, width, _) = 0.0, images_NHWC.shape
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_images, generator=generator).numpy()
    parts = [order[start : start + BATCH_SIZE] for start in range(0, num_images, BATCH_SIZE)]
    boxes = None
    if policy == "crop":
        boxes = [draw_boxes(len(rows), height=height, width=width, generator=generator) for rows in parts]
    draw = partial(draw_moves, policy=policy, height=height, width=width, generator=generator)
    moves = [draw(len(rows)) for rows in parts]
    for moves_B5 in moves if not turns else ():
        if moves_B5 is not None:
            moves_B5[:, 2] = 0
    for loaded_BCHW in load(images_NHWC, parts, boxes=boxes, moves=moves, device=torch.device("cpu")):
        start_s = time.thread_time()
        normalise_(colour(loaded_BCHW, policy=policy, generator=generator))
        device_cpu_s += time.thread_time() - start_s
    return device_cpu_s


def _apart(run: Run, device_cpu_s: float) -> Run:
    return replace(run, cpu_s=run.cpu_s - device_cpu_s, device_cpu_s=device_cpu_s)


def _cached(work: Path, height: int, width: int) -> Images:
    """The images from the cache, which the first to ask fills."""
    index, cache = pd.read_parquet(work / "index.parquet"), ImageCache(work / "cache")
    return open_images(
        connect(load_settings()), index, height=height, width=width, how=RESIZE, cache=cache, name=SNAPSHOT
    )


def _transform(height: int, width: int) -> Callable[[Image.Image], torch.Tensor]:
    steps = [transforms.Resize((height, width)), transforms.ToTensor()]
    made: Callable[[Image.Image], torch.Tensor] = transforms.Compose(
        [*steps, transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )
    return made


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = DESIGNS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
