from __future__ import annotations

from dataclasses import replace

import pytest

from tire_pipeline.refs import SnapshotRef, SplitRef
from tire_pipeline.training import cache_key as module
from tire_pipeline.training.cache_key import cache_key, differences, nearest, parts
from tire_pipeline.training.config import TrainingConfig

SPLIT = SplitRef(SnapshotRef("v1", "d1", 10, ["a", "b"]), "p1", 6, 2, 2)
CONFIG = TrainingConfig.of("cnn")
BASE = cache_key(SPLIT, CONFIG, "a")


def test_the_same_content_under_another_version_has_the_same_key() -> None:
    renamed = replace(SPLIT, snapshot=replace(SPLIT.snapshot, version="v2"))
    assert cache_key(renamed, CONFIG, "a") == BASE
    assert len(BASE) == 32


@pytest.mark.parametrize(
    ("split", "config", "positive"),
    [
        (replace(SPLIT, digest="p2"), CONFIG, "a"),
        (replace(SPLIT, snapshot=replace(SPLIT.snapshot, digest="d2")), CONFIG, "a"),
        (SPLIT, replace(CONFIG, seed=1), "a"),
        (SPLIT, replace(CONFIG, learning_rate=1e-3), "a"),
        (SPLIT, CONFIG, "b"),
        (SPLIT, CONFIG, None),
    ],
)
def test_all_that_a_bundle_follows_from_changes_the_key(split, config, positive) -> None:
    assert cache_key(split, config, positive) != BASE


def test_changed_code_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "code_digest", lambda: "other")
    assert cache_key(SPLIT, CONFIG, "a") != BASE


def test_the_code_digest_covers_each_listed_source(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module.code_digest()
    for left_out in module.SOURCES:
        monkeypatch.setattr(module, "SOURCES", tuple(s for s in module.SOURCES if s != left_out))
        assert module.code_digest() != whole
        monkeypatch.undo()


def test_a_miss_names_what_sets_it_apart_from_the_nearest_earlier_training() -> None:
    ours = parts(SPLIT, CONFIG, "a")
    other_rate = parts(SPLIT, replace(CONFIG, learning_rate=1e-3), "a")
    other_data = parts(replace(SPLIT, digest="p2", snapshot=replace(SPLIT.snapshot, digest="d2")), CONFIG, "b")
    assert nearest(ours, [other_data, other_rate]) == ["config.learning_rate: 0.002, was 0.001"]
    assert nearest(ours, [other_data]) == ["positive_class: a, was b", "snapshot: d1, was d2", "split: p1, was p2"]
    assert nearest(ours, []) == []
    assert differences(ours, ours) == []


def test_a_field_that_an_earlier_version_did_not_have_is_a_difference() -> None:
    ours, theirs = parts(SPLIT, CONFIG, "a"), parts(SPLIT, CONFIG, "a")
    del theirs["config"]["mixing"]
    assert differences(ours, theirs) == ["config.mixing: none, was None"]
