"""The slot follows production: loads beside, checks, swaps, refuses, and starts again from disk."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.serving.conftest import write_model
from tire_pipeline.bundle import Bundle
from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.input_gate import InputGate
from tire_pipeline.serving.bundles import KEEP, BundleCache, Target
from tire_pipeline.serving.follower import Follower
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import ModelSlot, load_model

MakeBundle = Callable[..., Bundle]


class World:
    """MLflow's alias and the bucket, in one: `promote` moves the alias, `away` makes both unreachable."""

    def __init__(self, home: Path) -> None:
        self.home, self.metrics = home, ServingMetrics()
        self.target: Target | None = None
        self.folders: dict[str, Path] = {}
        self.downloads = 0
        self.away = False

    def promote(self, version: int, bundle: Bundle) -> Target:
        prefix = f"runs/{version}/bundle/"
        self.folders[prefix] = bundle.path
        self.target = Target(version, bundle.digest, prefix)
        return self.target

    def production(self) -> Target | None:
        if self.away:
            raise ServiceUnavailable("MLflow did not answer.")
        return self.target

    def download(self, prefix: str, folder: Path) -> None:
        if self.away:
            raise ServiceUnavailable("S3 did not answer.")
        self.downloads += 1
        shutil.copytree(self.folders[prefix], folder)

    def server(self, project: str = "tire-defect") -> tuple[ModelSlot, Follower]:
        slot = ModelSlot(project, self.metrics)
        cache = BundleCache(self.home, project=project, download=self.download)
        return slot, Follower(slot, cache, target=self.production, metrics=self.metrics, interval_s=3600)

    def refused(self) -> float | None:
        return self.metrics.registry.get_sample_value("model_refused_total")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "serving")


def answering(slot: ModelSlot) -> tuple[int, str] | None:
    return slot.current and (slot.current.version, slot.current.bundle.digest)


def test_nothing_answers_until_something_is_promoted_and_then_it_does(world: World, make_bundle: MakeBundle) -> None:
    slot, follower = world.server()
    follower.step()
    assert slot.current is None
    target = world.promote(3, make_bundle())
    follower.step()
    assert answering(slot) == (3, target.digest)
    labels = {"project": "tire-defect", "version": "3", "digest": target.digest, "candidate": "tiny"}
    assert world.metrics.registry.get_sample_value("model_info", labels) == 1


def test_a_promotion_swaps_the_model_and_a_rollback_needs_no_download(world: World, make_bundle: MakeBundle) -> None:
    slot, follower = world.server()
    first, second = make_bundle("one", gain=1), make_bundle("two", gain=2)
    for version, bundle in [(1, first), (2, second), (1, first)]:
        world.promote(version, bundle)
        follower.step()
        assert answering(slot) == (version, bundle.digest)
    assert world.downloads == 2


def test_the_same_bundle_under_a_new_version_is_renamed_without_loading(world: World, make_bundle: MakeBundle) -> None:
    slot, follower = world.server()
    bundle = make_bundle()
    world.promote(1, bundle)
    follower.step()
    session = slot.current and slot.current.session
    world.promote(2, bundle)
    follower.step()
    assert answering(slot) == (2, bundle.digest) and slot.current and slot.current.session is session


def test_a_bundle_that_answers_its_golden_images_wrongly_is_refused_and_the_old_one_goes_on(
    world: World, make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    slot, follower = world.server()
    good = world.promote(1, make_bundle("good"))
    follower.step()
    world.promote(2, make_bundle("lying", gain=2, lie=0.01))
    follower.step()
    follower.step()
    assert answering(slot) == (1, good.digest)
    assert world.refused() == 1 and world.downloads == 2
    assert "Version 2 is refused" in caplog.text and "golden image 0" in caplog.text


def of_another_size(bundle: Bundle) -> None:
    write_model(bundle.path / "model.onnx", gain=1.0, size=99)
    bundle.save()


def for_one_picture_at_a_time(bundle: Bundle) -> None:
    write_model(bundle.path / "model.onnx", gain=1.0, size=16, batch=1)
    bundle.save()


def of_a_later_version(bundle: Bundle) -> None:
    manifest = bundle.path / "bundle.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "new_field": 1}))


def of_no_height(bundle: Bundle) -> None:
    replace(bundle, preprocessing=replace(bundle.preprocessing, height=0)).save()


def of_no_statistics(bundle: Bundle) -> None:
    gate = InputGate(side_min=1, brightness_min=0, sharpness_min=0, distance_max=1, space="AAAA")
    replace(bundle, input_gate=gate).save()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (of_another_size, "cannot answer golden image 0: .* Got: 16 Expected: 99"),
        (for_one_picture_at_a_time, "cannot answer its golden images in one batch: .* Got: 3 Expected: 1"),
        (of_a_later_version, "new_field is unknown"),
        (of_no_height, "cannot prepare a picture"),
        (of_no_statistics, "cannot prepare a picture"),
    ],
)
def test_a_bundle_that_cannot_answer_is_refused_once(
    world: World,
    make_bundle: MakeBundle,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Bundle], None],
    said: str,
) -> None:
    slot, follower = world.server()
    bundle = make_bundle()
    spoil(bundle)
    digest = hashlib.sha256((bundle.path / "bundle.json").read_bytes()).hexdigest()
    world.promote(1, replace(bundle, digest=digest))
    for _ in range(3):
        follower.step()
    assert slot.current is None and world.refused() == 1 and world.downloads == 1
    assert re.search(said, caplog.text)


def test_a_damaged_bundle_is_refused_by_its_digest(
    world: World, make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    slot, follower = world.server()
    bundle = make_bundle()
    world.promote(1, bundle)
    (bundle.path / "model.onnx").write_bytes(b"damaged")
    follower.step()
    assert slot.current is None and world.refused() == 1
    assert "model.onnx is damaged" in caplog.text


def test_a_bundle_that_was_exchanged_after_registration_is_refused(
    world: World, make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    slot, follower = world.server()
    target = world.promote(1, make_bundle("registered"))
    world.folders[target.prefix] = make_bundle("exchanged", gain=5).path
    follower.step()
    assert slot.current is None and world.refused() == 1
    assert "changed after it was registered" in caplog.text


def test_a_store_that_is_away_is_no_refusal_and_is_tried_again(
    world: World, make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    slot, follower = world.server()
    target = world.promote(1, make_bundle())
    world.away = True
    follower.step()
    follower.step()
    assert slot.current is None and world.refused() == 0
    assert caplog.text.count("cannot be followed now") == 1
    world.away = False
    follower.step()
    assert answering(slot) == (1, target.digest)


def test_the_server_starts_from_disk_without_mlflow_and_s3(world: World, make_bundle: MakeBundle) -> None:
    target = world.promote(4, make_bundle())
    world.server()[1].step()
    world.away = True
    slot, follower = world.server()
    follower.start()
    follower.stop()
    assert answering(slot) == (4, target.digest)


def test_another_projects_model_is_not_served_from_disk(world: World, make_bundle: MakeBundle) -> None:
    world.promote(4, make_bundle())
    world.server()[1].step()
    world.away = True
    slot, follower = world.server("leaf-rust")
    follower.start()
    follower.stop()
    assert slot.current is None


def test_a_last_good_bundle_that_rotted_on_disk_is_not_served(
    world: World, make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    target = world.promote(4, make_bundle())
    world.server()[1].step()
    (world.home / "bundles" / target.digest / "model.onnx").write_bytes(b"rot")
    world.away = True
    slot, follower = world.server()
    follower.start()
    follower.stop()
    assert slot.current is None and "cannot be used" in caplog.text


def test_a_bundle_that_rotted_on_disk_is_fetched_again_where_the_store_has_a_good_one(
    world: World, make_bundle: MakeBundle
) -> None:
    target = world.promote(4, make_bundle())
    world.server()[1].step()
    (world.home / "bundles" / target.digest / "model.onnx").write_bytes(b"rot")
    slot, follower = world.server()
    follower.step()
    assert answering(slot) == (4, target.digest)
    assert (world.downloads, world.refused()) == (2, 0)


def test_what_could_not_be_noted_is_noted_by_the_next_step(
    world: World, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.promote(1, make_bundle())
    _, follower = world.server()
    with monkeypatch.context() as full_disk:
        full_disk.setattr(BundleCache, "remember", lambda *_: (_ for _ in ()).throw(OSError("No space left")))
        follower.step()
    assert not (world.home / "current.json").exists()
    follower.step()
    assert json.loads((world.home / "current.json").read_text())["version"] == 1


@pytest.mark.parametrize("note", ["", "{}", '{"project": "tire-defect", "wrong": 1}', "[1]"])
def test_a_broken_note_on_disk_does_not_stop_the_start(world: World, note: str) -> None:
    world.home.mkdir()
    (world.home / "current.json").write_text(note)
    slot, follower = world.server()
    follower.start()
    follower.stop()
    assert slot.current is None


def test_only_the_last_used_bundles_are_kept_on_disk(world: World, make_bundle: MakeBundle) -> None:
    _, follower = world.server()
    digests = []
    for version in range(1, KEEP + 3):
        digests.append(world.promote(version, make_bundle(f"b{version}", gain=version)).digest)
        follower.step()
    assert {p.name for p in (world.home / "bundles").iterdir()} == set(digests[-KEEP:])
    assert json.loads((world.home / "current.json").read_text())["digest"] == digests[-1]


def test_a_bundle_without_golden_images_is_not_served(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    shutil.rmtree(bundle.path / "golden")
    replace(bundle, golden={}).save()
    with pytest.raises(InputError, match="no golden images"):
        load_model(bundle.path)


def test_the_challengers_slot_empties_with_its_alias_and_nothing_of_it_is_remembered(
    world: World, make_bundle: MakeBundle
) -> None:
    slot = ModelSlot("tire-defect", world.metrics, info=world.metrics.challenger)
    cache = BundleCache(world.home, project="tire-defect", download=world.download)
    follower = Follower(slot, cache, target=world.production, metrics=world.metrics, alias="staging", keeps=False)
    target = world.promote(5, make_bundle())
    follower.step()
    assert answering(slot) == (5, target.digest) and cache.remembered() is None
    world.away = True
    follower.step()
    assert answering(slot) == (5, target.digest)
    world.away, world.target = False, None
    follower.step()
    assert slot.current is None
