"""A version taken from the real S3: odd keys, hostile files, changed bytes, many shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from tests import corpus
from tests.unit.fakes import picture
from tire_pipeline import steps
from tire_pipeline.datasets import contents, parts, snapshots, versions
from tire_pipeline.datasets.paths import KEY_BYTES_MAX
from tire_pipeline.errors import DataRefused, InputError
from tire_pipeline.refs import ScanShard, digest_of
from tire_pipeline.wiring import Services

PREFIX = "datasets/v1/"


def upload(live: Services, cases: list[corpus.Case]) -> None:
    for case in cases:
        live.objects.put(PREFIX + case.key, case.data)
    live.objects.put(PREFIX + versions.READY, b"")


def errors_of(index: pd.DataFrame) -> dict[str, str]:
    return dict(zip(index["path"], index["error"], strict=True))


def differing(cases: list[corpus.Case], errors: dict[str, str]) -> dict[str, str]:
    return {c.key: errors[c.key] for c in cases if (c.said not in errors[c.key] if c.said else errors[c.key])}


def test_a_version_of_hostile_files_and_odd_keys_is_indexed_whole(live: Services) -> None:
    longest = "good/" + "long/" * 40
    longest += "x" * (KEY_BYTES_MAX - len(PREFIX + longest) - 4) + ".jpg"
    keys = [*corpus.odd_keys(), corpus.Case(longest, corpus.jpeg(115))]
    cases = [*(corpus.Case(f"odd/{c.key}", c.data, c.said) for c in corpus.files() if c.data), *keys]
    assert len((PREFIX + longest).encode()) == KEY_BYTES_MAX
    upload(live, cases)
    snapshot = snapshots.build(live.objects, "v1")
    errors = errors_of(snapshot.index)
    assert set(errors) == {c.key for c in cases}
    assert differing(cases, errors) == {}
    usable = {c.key: hashlib.sha256(c.data).hexdigest() for c in cases if not c.said}
    assert dict(zip(snapshot.usable["path"], snapshot.usable["sha256"], strict=True)) == usable
    assert len(snapshots.load_fingerprints(live.objects, snapshot)) == len(usable)
    assert (snapshot.usable["phash"].map(len) == 16).all()


def test_the_same_picture_under_two_labels_is_quarantined_wherever_it_lies(live: Services) -> None:
    twice, alone = corpus.jpeg(1), corpus.jpeg(2)
    upload(
        live,
        [
            corpus.Case("bad/1.jpg", twice),
            corpus.Case("bad/2.jpg", alone),
            corpus.Case("good/3.jpg", twice),
            corpus.Case("good/4.jpg", twice),
            corpus.Case("bad/5.jpg", alone),
        ],
    )
    digest, _ = snapshots.take(live.objects, "v1", shard_images=1)
    errors = errors_of(snapshots.load(live.objects, digest).index)
    assert errors["bad/2.jpg"] == errors["bad/5.jpg"] == ""  # copies under one label are no contradiction
    assert "The same picture is 'good' as good/3.jpg, and 'bad' here" in errors["bad/1.jpg"]
    for path in ("good/3.jpg", "good/4.jpg"):
        assert "The same picture is 'bad' as bad/1.jpg, and 'good' here" in errors[path]


def test_a_flipped_bit_is_found_by_its_sha256_and_named(live: Services, tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / "good").mkdir(exist_ok=True)
        (tmp_path / "good" / f"{i}.jpg").write_bytes(corpus.jpeg(i))
    steps.push(tmp_path, version="v1", services=live)
    flipped = bytearray(corpus.jpeg(7))
    flipped[len(flipped) // 2] ^= 4
    live.objects.put(PREFIX + "good/7.jpg", bytes(flipped))
    with pytest.raises(DataRefused, match=r"1 images of dataset version 'v1' have other bytes .* 'good/7\.jpg'"):
        snapshots.build(live.objects, "v1")


@pytest.mark.parametrize("name", ["new\nline.jpg", "\x1b[31m.jpg", "a" * 250 + ".jpg"])
def test_a_push_refuses_a_file_that_no_key_should_name(live: Services, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in" / "/".join(["long" * 30] * 7)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(picture())
    with pytest.raises(InputError, match=r"(control character|S3 keys have at most 1024 bytes).*Nothing was uploaded"):
        steps.push(tmp_path / "in", version="v1", services=live)
    assert list(live.objects.list("datasets/")) == []


def test_odd_names_of_files_go_up_and_come_down_as_they_are(live: Services, tmp_path: Path) -> None:
    cases = [c for c in corpus.odd_keys() if not c.said]
    for case in cases:
        (tmp_path / "in" / case.key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / case.key).write_bytes(case.data)
    assert steps.push(tmp_path / "in", version="v1", services=live).num_images == len(cases)
    assert differing(cases, errors_of(snapshots.build(live.objects, "v1").index)) == {}
    steps.pull_version("v1", tmp_path / "out", services=live)
    assert {c.key: (tmp_path / "out" / c.key).read_bytes() for c in cases} == {c.key: c.data for c in cases}


def test_a_version_is_the_same_snapshot_however_it_is_cut_and_whoever_scans_it(
    live: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(live, [corpus.Case(f"{'good' if i % 2 else 'bad'}/{i:03d}.png", picture(i)) for i in range(30)])
    monkeypatch.setattr(snapshots, "SHARD_IMAGES", 4)
    shards = steps.plan_scan("v1", services=live)
    assert sum(s.num_images for s in shards) == 30
    assert len(shards) > 1
    for shard in reversed(shards):  # a mapped task hands over JSON
        steps.scan(ScanShard(**asdict(shard)), services=live)
    assert steps.plan_scan("v1", services=live) == []
    spread = snapshots.take(live.objects, "v1", shard_images=4)
    assert spread[1]  # everything had been read by the tasks
    frames = {}
    for size in (1, 7, 10**6):
        digest, _ = snapshots.take(live.objects, "v1", shard_images=size)
        assert digest == spread[0]
        frames[size] = snapshots.load(live.objects, digest).index
    assert frames[1].equals(frames[7])
    assert frames[7].equals(frames[10**6])
    rows = frames[7][["path", "sha256", "label", "group"]].itertuples(index=False, name=None)
    assert spread[0] == digest_of(sorted(rows))


def test_a_version_that_grew_is_read_where_it_grew(live: Services, count_fetches: Callable[[], int]) -> None:
    cases = [corpus.Case(f"good/{i:03d}.png", picture(i)) for i in range(60)]
    upload(live, cases)
    snapshots.take(live.objects, "v1", shard_images=8)
    assert count_fetches() == 60
    snapshots.take(live.objects, "v1", shard_images=8)
    assert count_fetches() == 0
    upload(live, [corpus.Case("good/030-new.png", picture(99))])
    digest, cached = snapshots.take(live.objects, "v1", shard_images=8)
    assert not cached
    assert 0 < count_fetches() <= 33  # the shard that it fell into, perhaps the next: twice the usual each
    assert len(snapshots.load(live.objects, digest).index) == 61


@pytest.fixture
def count_fetches(live: Services, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many images were read since the last call."""
    read: list[str] = []
    fetch = live.objects.fetch

    def counted(key: str, *, etag: str = "") -> bytes:
        read.append(key)
        return fetch(key, etag=etag)

    monkeypatch.setattr(live.objects, "fetch", counted)

    def count() -> int:
        number = len(read)
        read.clear()
        return number

    return count


def test_an_object_that_changes_between_listing_and_reading_is_not_taken_for_the_listed_one(live: Services) -> None:
    upload(live, [corpus.Case("good/1.png", picture(1))])
    (shard,) = parts.cut(contents.read_table(live.objects, "v1"))
    live.objects.put(PREFIX + "good/1.png", picture(2))
    parts.plan(live.objects, "v1", [shard])
    with pytest.raises(InputError, match=r"good/1\.png was changed while it was being read"):
        snapshots.scan(live.objects, ScanShard("v1", shard.part, 1))
    assert not parts.is_stored(live.objects, shard.part)
