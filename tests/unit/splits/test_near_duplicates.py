from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.unit.splits.planting import HARDER, num_joined, photograph_files, plant
from tire_pipeline import imaging, splits
from tire_pipeline.errors import InputError
from tire_pipeline.fingerprints import fingerprint
from tire_pipeline.imaging import Pixels
from tire_pipeline.sample import draw_sample
from tire_pipeline.splits import candidates


@pytest.fixture(scope="module")
def tyres(tmp_path_factory: pytest.TempPathFactory) -> list[Pixels]:
    """Fifty photographs, each of another tyre."""
    folder = tmp_path_factory.mktemp("sample") / "tyres"
    draw_sample(folder, num_images=160, size=200, seed=3)
    return [imaging.decode(p.read_bytes()) for p in sorted(folder.glob("*/*-0.jpg"))[:50]]


@pytest.fixture(scope="module")
def planted(tyres: list[Pixels]) -> pd.DataFrame:
    """Fifty tyres and 250 altered copies of them."""
    return plant(tyres, alterations=HARDER)


@pytest.fixture(scope="module")
def photographs() -> list[Pixels]:
    """Real photographs of pits in steel, two hundred of them."""
    files = photograph_files()
    chosen = np.random.default_rng(0).permutation(len(files))[:200]
    return [imaging.decode(files[i].read_bytes()) for i in chosen]


def torn(index: pd.DataFrame, split: splits.Split) -> list[int]:
    """The pictures of which copies are on different sides."""
    on = split.sides != splits.LEFT_OUT
    sides = split.sides[on].groupby(index["original"][on]).nunique()
    return [int(original) for original in sides.index[sides > 1]]


@pytest.mark.parametrize("seed", range(5))
def test_altered_copies_of_tyres_are_on_the_sides_of_their_originals(planted: pd.DataFrame, seed: int) -> None:
    split = splits.assign(planted, seed=seed)
    assert torn(planted, split) == []
    assert split.left_out == {}
    splits.prove(planted, split.sides)


@pytest.mark.parametrize("how", [a.__name__ for a in HARDER])
def test_nearly_every_altered_copy_is_found_without_the_help_of_others(planted: pd.DataFrame, how: str) -> None:
    index = planted[planted["how"].isin(["", how])]
    cluster_N = splits.compare(index["fingerprint"].tolist()).clusters()
    found, _ = num_joined(cluster_N, index["original"])
    assert found >= 49  # of 50


def test_distinct_tyres_are_hardly_ever_taken_for_one(planted: pd.DataFrame) -> None:
    cluster_N = splits.compare(planted["fingerprint"].tolist()).clusters()
    first_of_each = planted["how"].to_numpy() == ""
    _, mistaken = num_joined(cluster_N[first_of_each], planted["original"][first_of_each])
    assert mistaken <= 2  # of 1,225 pairs


def test_altered_copies_of_real_photographs_are_on_the_sides_of_their_originals(photographs: list[Pixels]) -> None:
    index = plant(photographs)
    cluster_N = splits.compare(index["fingerprint"].tolist()).clusters()
    found, _ = num_joined(cluster_N, index["original"])
    assert found >= 196
    split = splits.assign(index, seed=0)
    assert torn(index, split) == []
    splits.prove(index, split.sides)


def test_near_duplicate_clusters_are_the_groups_where_none_is_given(planted: pd.DataFrame) -> None:
    groups = splits.assign(planted, seed=0).together["group"]
    assert groups.groupby(planted["original"]).nunique().max() == 1
    assert groups.nunique() >= 48


def test_what_is_sorted_in_pieces_is_what_is_sorted_whole(
    planted: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = splits.compare(planted["fingerprint"].tolist())
    monkeypatch.setattr(candidates, "CODES_AT_ONCE", 2_000)
    monkeypatch.setattr(candidates, "VOTERS_AT_ONCE", 60)
    monkeypatch.setattr(candidates, "IMAGES_AT_ONCE", 100)
    pieces = splits.compare(planted["fingerprint"].tolist())
    assert pieces.clusters().tolist() == whole.clusters().tolist()


def test_given_groups_are_joined_by_near_duplicates(tyres: list[Pixels]) -> None:
    index = plant(tyres, num_each=1)
    index["group"] = [f"tyre-{i:02d}" for i in range(len(index))]
    groups = splits.assign(index, seed=0).together["group"]
    assert groups.iloc[len(tyres) :].tolist() == [f"tyre-{i:02d}" for i in range(4)]


def test_clusters_do_not_depend_on_the_order_of_images(planted: pd.DataFrame) -> None:
    turned = planted.iloc[::-1]
    one, other = (set(splits.link(rows).clusters(np.ones(len(rows), bool))) for rows in (planted, turned))
    assert len(one) == len(other)
    named = [splits.assign(rows, seed=0).together["cluster"] for rows in (planted, turned)]
    assert named[0].sort_index().equals(named[1].sort_index())


def test_a_cluster_is_numbered_by_its_first_image(tyres: list[Pixels]) -> None:
    one, two, three = (fingerprint(pixels) for pixels in tyres[:3])
    assert splits.compare([one, two, one, three, two]).clusters().tolist() == [0, 1, 0, 3, 1]


def test_images_without_a_fingerprint_are_like_no_other(tyres: list[Pixels]) -> None:
    assert splits.compare([b"", fingerprint(tyres[0]), b""]).clusters().tolist() == [0, 1, 2]
    assert splits.compare([]).clusters().tolist() == []


def test_blank_pictures_are_not_all_one_cluster() -> None:
    blank = [fingerprint(np.full((90, 120, 3), shade, np.uint8)) for shade in (0, 128)]
    ramp = fingerprint(np.tile(np.linspace(0, 255, 120, dtype=np.uint8)[None, :, None], (90, 1, 3)))
    assert splits.compare([*blank, ramp]).clusters()[2] == 2


def test_a_fingerprint_of_another_release_is_refused_with_the_way_out(tyres: list[Pixels]) -> None:
    known = fingerprint(tyres[0])
    for foreign in (known[:-1], bytes([99]) + known[1:]):
        with pytest.raises(InputError, match="Take the snapshot again: `tire validate"):
            splits.compare([known, foreign])
