from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.unit.splits.rows import noise_print, rows_of, tyres
from tire_pipeline import splits
from tire_pipeline.errors import InputError


@pytest.fixture
def index() -> pd.DataFrame:
    """Twelve tyres and twelve images without a group, among them one near-duplicate and two of one moment."""
    loose = rows_of(12, first=36, fingerprint=[noise_print(i) for i in range(12)])
    found = pd.concat([tyres(12).assign(fingerprint=b""), loose], ignore_index=True)
    found["camera"], found["captured_at"] = "", ""
    found.at[40, "fingerprint"] = found.at[37, "fingerprint"]
    found.loc[[38, 43], "camera"] = "gate"
    found.loc[[38, 43], "captured_at"] = ["2026-03-01T10:00:00", "2026-03-01T10:00:20"]
    return found


@pytest.mark.parametrize("kind", ["kfold", "logo"])
def test_every_image_is_tested_once_by_a_model_that_saw_nothing_of_it(index: pd.DataFrame, kind: str) -> None:
    made = splits.folds(index, kind=kind, k=4)
    assert sorted(np.concatenate([f.test for f in made]).tolist()) == list(range(len(index)))
    for fold in made:
        assert sorted([*fold.train, *fold.val, *fold.test]) == list(range(len(index)))
        assert len(fold.val)
        sides = pd.Series("train", index=index.index)
        sides.iloc[fold.val], sides.iloc[fold.test] = "val", "test"
        splits.prove(index, sides)


def test_leaving_one_group_out_makes_a_fold_of_each_and_names_it(index: pd.DataFrame) -> None:
    made = splits.folds(index, kind="logo")
    assert len(made) == 12 + 10
    (third,) = (f for f in made if f.name == "tyre-3")
    assert third.test.tolist() == [9, 10, 11]


def test_k_folds_have_even_classes() -> None:
    index = tyres(40)
    made = splits.folds(index, kind="kfold", k=4)
    assert [f.name for f in made] == ["0", "1", "2", "3"]
    for fold in made:
        assert index["label"].iloc[fold.test].value_counts(normalize=True).to_list() == pytest.approx(
            [0.5, 0.5], abs=0.1
        )


@pytest.mark.parametrize("kind", ["kfold", "logo"])
def test_the_order_of_rows_changes_no_fold(index: pd.DataFrame, kind: str) -> None:
    turned = index.sample(frac=1, random_state=1)

    def parts(rows: pd.DataFrame) -> list[tuple[set[str], ...]]:
        made = splits.folds(rows, kind=kind, k=4, seed=3)
        return [tuple(set(rows["path"].iloc[part]) for part in (f.train, f.val, f.test)) for f in made]

    assert parts(turned) == parts(index)


def test_the_seed_changes_the_folds(index: pd.DataFrame) -> None:
    one, other = (splits.folds(index, kind="kfold", k=4, seed=s) for s in (0, 1))
    assert [f.test.tolist() for f in one] != [f.test.tolist() for f in other]


@pytest.mark.parametrize(
    ("num", "options", "said"),
    [
        (12, {"kind": "loo"}, "'loo' is unknown. Choose from: kfold, logo"),
        (12, {"kind": "kfold", "k": 1}, "at least 2 folds"),
        (4, {"kind": "kfold", "k": 5}, "in 5 folds needs at least 2 folds and 5 groups; there are 4 groups"),
        (2, {"kind": "logo"}, "needs at least 2 folds and 3 groups; there are 2 groups"),
        (101, {"kind": "logo"}, "would train 101 models; at most 100 are. Use --cv kfold"),
        (3, {"kind": "logo"}, "Fold 'tyre-0' leaves no image of 'good' to train on: there are too few groups"),
    ],
)
def test_folds_that_cannot_be_made_are_refused_with_the_way_out(
    num: int, options: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        splits.folds(tyres(num), **options)  # type: ignore[arg-type]
