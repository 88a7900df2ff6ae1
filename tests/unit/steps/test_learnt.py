from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tire_pipeline.datasets.snapshots import folder_of, split_key, write_frame
from tire_pipeline.errors import InputError
from tire_pipeline.steps.learnt import learnt_by

TAGS = {"tire.snapshot": "s1", "tire.split": "p1", "tire.candidate": "cnn"}


def frame(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["path", "sha256", "group"]).assign(label="good", error="")


@pytest.fixture
def trained(fake: Any) -> Any:
    """A champion that learnt from a.png and b.png, and was tested on c.png."""
    index = frame(("a.png", "aa", "tyre-1"), ("b.png", "bb", "tyre-2"), ("c.png", "cc", "tyre-3"))
    write_frame(fake.objects, folder_of("s1") + "index.parquet", index)
    sides = pd.DataFrame({"path": ["a.png", "b.png", "c.png"], "side": ["train", "val", "test"]})
    write_frame(fake.objects, split_key("s1", "p1"), sides)
    return fake


def test_what_was_trained_or_calibrated_on_is_found_by_content_under_any_name(trained: Any) -> None:
    rows = frame(("other/a.png", "aa", "x"), ("b.png", "new", "y"), ("c.png", "cc", "z"), ("d.png", "bb", "w"))
    assert learnt_by(trained, TAGS, rows).tolist() == [True, False, False, True]


def test_a_groups_name_counts_where_it_is_asked_for(trained: Any) -> None:
    rows = frame(("e.png", "ee", "tyre-1"), ("f.png", "ff", "tyre-3"))
    assert learnt_by(trained, TAGS, rows).tolist() == [False, False]
    assert learnt_by(trained, TAGS, rows, groups=True).tolist() == [True, False]


def test_when_nobody_can_tell_it_says_so(fake: Any) -> None:
    with pytest.raises(InputError, match=r"The split p1 that cnn was trained with is gone .* Restore the object"):
        learnt_by(fake, TAGS, frame(("a.png", "aa", "x")))
