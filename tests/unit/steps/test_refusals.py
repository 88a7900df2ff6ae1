"""A version refused for each reason, with the words that `docs/refusals.md` promises."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes import picture
from tire_pipeline import steps
from tire_pipeline.errors import TireError
from tire_pipeline.imaging import decode, encode_png
from tire_pipeline.stores.objects import ObjectStore

PAGE = (Path(__file__).parents[3] / "docs" / "refusals.md").read_text(encoding="utf-8")
V1 = "datasets/v1/"
SIDES = ("train", "train", "val", "test")
Spoil = Callable[[ObjectStore], None]


def images(num_good: int = 40, num_bad: int = 40) -> dict[str, bytes]:
    """Pictures of noise by path; picture `i` of a class is always the same."""
    good = {f"good/{i}.png": picture(i) for i in range(num_good)}
    return good | {f"bad/{i}.png": picture(1000 + i) for i in range(num_bad)}


def upload(store: ObjectStore, files: dict[str, bytes], *, labels: str = "") -> None:
    for path, data in files.items():
        store.put(V1 + path, data)
    if labels:
        store.put(f"{V1}labels.csv", labels.encode())
    store.put(f"{V1}_READY", b"")


def with_manifest(store: ObjectStore) -> None:
    files = images(5, 5)
    upload(store, files)
    stated = [manifest_row(path, data) for path, data in sorted(files.items())]
    store.put_json(f"{V1}_MANIFEST.json", {"files": stated})


def manifest_row(path: str, data: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    return {"key": path, "size": len(data), "sha256": sha256, "label": path.split("/")[0]}


def table(group: Callable[[str, int], str], side: Callable[[int], str] = lambda _: "") -> str:
    """A labels.csv of all images."""
    rows = [f"{label}/{i}.png,{label},{group(label, i)},{side(i)}" for label in ("good", "bad") for i in range(40)]
    return "\n".join(["path,label,group,split", *rows])


def incomplete(store: ObjectStore) -> None:
    store.put(f"{V1}good/0.png", picture())


def cut_manifest(store: ObjectStore) -> None:
    with_manifest(store)
    store.put(f"{V1}_MANIFEST.json", store.get(f"{V1}_MANIFEST.json")[:-20])


def deleted(store: ObjectStore) -> None:
    with_manifest(store)
    store.delete(f"{V1}good/3.png")


def changed(store: ObjectStore) -> None:
    with_manifest(store)
    data = store.get(f"{V1}good/3.png")
    store.put(f"{V1}good/3.png", data[:-1] + b"x")


def lit_otherwise(store: ObjectStore) -> None:
    """Bad things by a lamp half as bright."""
    upload(store, {path: encode_png(decode(data) // (1 + path.startswith("bad"))) for path, data in images().items()})


def torn(label: str, i: int) -> str:
    return "good3" if (label, i) == ("good", 1) else f"{label}{i}"


def no_bad_test() -> str:
    """A labels.csv that divides all images, with no bad one in test."""
    rows = table(lambda label, i: f"{label}{i}", lambda i: SIDES[i % 4]).splitlines()
    return "\n".join(row.replace("test", "val") if row.startswith("bad") else row for row in rows)


CASES: dict[str, tuple[Spoil, dict[str, Any]]] = {
    "it is still being uploaded. Upload it with `tire dataset push DIR --version v1`": (incomplete, {}),
    "it is not there. Upload it with `tire dataset push DIR --version v9`": (incomplete, {"version": "v9"}),
    "The dataset version 'v1' holds no image.": (lambda store: upload(store, {}), {}),
    "The _MANIFEST.json of dataset version 'v1' cannot be read (ValueError: it ends before its list 'files' does).": (
        cut_manifest,
        {},
    ),
    "differ from its _MANIFEST.json in 1 keys: 'good/3.png'. Push the version again": (deleted, {}),
    "1 images of dataset version 'v1' have other bytes than their sha256 in the manifest says, the first: "
    "'good/3.png'.": (changed, {}),
    "names 1 images that are not there: 'good/nowhere.png'.": (
        lambda store: upload(store, images(), labels=table(torn) + "\ngood/nowhere.png,good,,"),
        {},
    ),
    "labels.csv has no column 'label'; it has 'path', 'class'.": (
        lambda store: upload(store, images(), labels="path,class\ngood/0.png,good"),
        {},
    ),
    "labels.csv, line 3, gives 'good/0.png' twice.": (
        lambda store: upload(store, images(), labels="path,label\ngood/0.png,good\ngood/0.png,bad"),
        {},
    ),
    "labels.csv, line 2: the split 'exam' is none of train, val, test.": (
        lambda store: upload(store, images(), labels="path,label,split\ngood/0.png,good,exam"),
        {},
    ),
    "at most 1.0% of the files are unreadable: found 0.025. See quarantine.csv": (
        lambda store: upload(store, images() | {"good/0.png": b"no image", "good/1.png": b""}),
        {},
    ),
    "First unreadable file: bad/0.png: The same picture is 'good' as good/0.png, and 'bad' here.": (
        lambda store: upload(store, images() | {"bad/0.png": picture(0)}),
        {},
    ),
    "there are at least 20 readable, labelled images: found 18.": (lambda store: upload(store, images(9, 9)), {}),
    "there are at least two classes: found 1.": (lambda store: upload(store, images(40, 0)), {}),
    "every class has at least 10 images: 1 of 2 are not: bad = 9.": (lambda store: upload(store, images(40, 9)), {}),
    "every image has a width of at least 32 pixels: 1 of 80 are not: good/0.png = 20.": (
        lambda store: upload(store, images() | {"good/0.png": picture(size=20)}),
        {},
    ),
    "every class has images of at least three groups: 1 of 2 are not: bad = 2.": (
        lambda store: upload(
            store, images(), labels=table(lambda label, i: f"{label}{i % 2 if label == 'bad' else i}")
        ),
        {},
    ),
    "every class has images on the test side that was given: 1 of 2 are not: bad = 0.": (
        lambda store: upload(store, images(), labels=no_bad_test()),
        {},
    ),
    "the metadata probe reaches at most 0.60 (--max-probe): found 1.": (lit_otherwise, {"max_probe": 0.6}),
    "1 groups are on more than one side of the split (first: 'good3' in test (good/3.png) and train (good/1.png)).": (
        lambda store: upload(store, images(), labels=table(torn, lambda i: SIDES[i % 4])),
        {},
    ),
}


@pytest.mark.parametrize("said", CASES)
def test_a_version_is_refused_in_the_words_of_the_page(fake: Any, said: str) -> None:
    spoil, options = CASES[said]
    spoil(fake.objects)
    with pytest.raises(TireError) as refused:
        steps.split(steps.validate(**{"version": "v1", **options}, services=fake), services=fake)
    assert said in str(refused.value)
    assert said in PAGE


def test_the_page_has_no_reason_without_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(CASES)
