"""Other people's loaders, each as its documentation has it. Runs in .venv-bench: imports nothing of ours.

    python peers.py prepare PICTURES WORK     writes the pictures as tar and MDS shards
    python peers.py DESIGN  WORK HEIGHT WIDTH  prints {"images", "cpu_s", "seconds"} of one epoch

An epoch ends with float32 (B, C, H, W), normalised, as the default collation makes it. Shards lie on the local disk.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BATCH_SIZE = 64
SHARD_IMAGES = 250


def prepare(pictures: Path, work: Path) -> None:
    import webdataset
    from streaming import MDSWriter

    paths = sorted(pictures.iterdir())
    shard_images = max(1, min(SHARD_IMAGES, len(paths) // _num_workers()))  # a worker without a shard would idle
    (work / "tar").mkdir(parents=True)
    with (
        webdataset.ShardWriter(str(work / "tar" / "%06d.tar"), maxcount=shard_images, verbose=0) as tar,
        MDSWriter(out=str(work / "mds"), columns={"jpg": "bytes"}, size_limit=32_000_000) as mds,
    ):
        for number, path in enumerate(paths):
            data = path.read_bytes()
            tar.write({"__key__": f"{number:06d}", "jpg": data})
            mds.write({"jpg": data})


def webdataset(work: Path, transform: Any) -> Iterable[Any]:
    import webdataset as wds

    shards = sorted(map(str, (work / "tar").glob("*.tar")))
    dataset = wds.WebDataset(shards, shardshuffle=False).to_tuple("jpg").map_tuple(transform).batched(BATCH_SIZE)
    return (x for (x,) in wds.WebLoader(dataset, batch_size=None, num_workers=_num_workers()))


def mosaicml_streaming(work: Path, transform: Any) -> Iterable[Any]:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    class Pictures(StreamingDataset):
        def __getitem__(self, at: int) -> Any:
            return transform(super().__getitem__(at)["jpg"])

    clean_stale_shared_memory()  # of a run that was killed
    dataset = Pictures(local=str(work / "mds"), shuffle=False, batch_size=BATCH_SIZE)
    return DataLoader(dataset, batch_size=BATCH_SIZE, num_workers=_num_workers())


def make_transform(height: int, width: int) -> Any:
    """Bytes to a normalised float32 (C, H, W)."""
    from PIL import Image
    from torchvision import transforms

    from_picture = transforms.Compose(
        [
            transforms.Resize((height, width)),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return lambda data: from_picture(Image.open(io.BytesIO(data)).convert("RGB"))


def measure(design: str, work: Path, height: int, width: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    load = {"webdataset": webdataset, "mosaicml-streaming": mosaicml_streaming}[design]
    batches = load(work, make_transform(height, width))
    cpu_s, start_s = _cpu_s(), time.perf_counter()
    images = sum(len(x) for x in batches)  # the workers have ended by then, and their time is known
    return {"images": images, "cpu_s": _cpu_s() - cpu_s, "seconds": time.perf_counter() - start_s}


def _num_workers() -> int:
    return len(os.sched_getaffinity(0))


def _cpu_s() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))  # noqa: T201
