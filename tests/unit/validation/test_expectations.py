from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tire_pipeline.errors import TireError
from tire_pipeline.validation import expectations, report, suites
from tire_pipeline.validation.drift import Shift
from tire_pipeline.validation.expectations import Verdict, judge
from tire_pipeline.validation.label_errors import Suspect
from tire_pipeline.validation.outliers import Outlier
from tire_pipeline.validation.signals import Signals
from tire_pipeline.validation.suites import Limits


def index(**counts: int) -> pd.DataFrame:
    """An index that passes, with so many images a class."""
    labels = [label for label, n in (counts or {"good": 50, "bad": 50}).items() for _ in range(n)]
    n = len(labels)
    return pd.DataFrame(
        {
            "path": [f"{label}/{i}.jpg" for i, label in enumerate(labels)],
            "key": [f"datasets/v1/{label}/{i}.jpg" for i, label in enumerate(labels)],
            "sha256": [f"{i:016x}" + 48 * "0" for i in range(n)],
            "bytes": 1000,
            "label": labels,
            "group": [f"{i:016x}" for i in range(n)],
            "split": "",
            "width": 320,
            "height": 240,
            "format": "JPEG",
            "brightness": 100.0,
            "error": "",
        }
    )


def judged(frame: pd.DataFrame, limits: Limits | None = None, signals: Signals | None = None) -> list[Verdict]:
    """The verdicts without the canaries, which take six times as long."""
    kinds = suites.kinds_of(frame[frame["label"] != ""])
    return list(expectations._judge(frame, limits or Limits(), signals or Signals(), kinds))


def refused(frame: pd.DataFrame, limits: Limits | None = None) -> dict[str, str]:
    """Each demand that failed, and what was found."""
    return {v.demand: v.found for v in judged(frame, limits) if v.refuses}


def test_a_good_index_passes_every_expectation() -> None:
    verdicts = judge(index(), Limits())
    assert all(v.ok for v in verdicts)
    assert len({v.demand for v in verdicts}) == len(verdicts) >= 18


def test_a_single_class_is_refused() -> None:
    assert refused(index(good=50)) == {"there are at least two classes": "found 1"}


def test_a_class_with_fewer_than_ten_images_is_refused_by_name() -> None:
    (found,) = refused(index(good=50, cut=9)).values()
    assert "cut" in found
    assert "good" not in found
    assert refused(index(good=50, cut=10)) == {}


def test_too_few_images_are_refused() -> None:
    found = refused(index(good=10, bad=9), Limits(images_per_class_min=5))
    assert found == {"there are at least 20 readable, labelled images": "found 19"}


@pytest.mark.parametrize(("bad", "ok"), [(0, True), (1, True), (2, False)])
def test_over_one_percent_of_unreadable_files_refuses_and_one_percent_does_not(bad: int, ok: bool) -> None:
    frame = index()
    frame.loc[: bad - 1, "error"] = "truncated"
    found = refused(frame)
    assert (found == {}) is ok
    if not ok:
        assert list(found) == ["at most 1.0% of the files are unreadable"]
        assert refused(frame, Limits(bad_max=0.05)) == {}


@pytest.mark.parametrize(
    ("column", "value", "demand"),
    [
        ("width", 16, "every image has a width of at least 32 pixels"),
        ("height", 31, "every image has a height of at least 32 pixels"),
        ("path", "good/0.jpg", "every path stands once"),
        ("sha256", "abc", "every image has a sha256"),
        ("group", None, "every image has a value for group"),
        ("brightness", None, "every image has a value for brightness"),
    ],
)
def test_each_fault_of_a_row_is_refused_alone_and_names_the_image(column: str, value: Any, demand: str) -> None:
    frame = index()
    frame.loc[70, column] = value
    found = refused(frame)
    assert list(found) == [demand]
    assert "bad/70.jpg" in found[demand] or column == "path"


def test_unlabelled_images_count_neither_as_a_class_nor_as_a_fault() -> None:
    new = index(x=5).assign(label="", path=lambda f: "new/" + f["path"])
    assert refused(pd.concat([index(), new], ignore_index=True)) == {}
    assert "there are at least two classes" in refused(pd.concat([index(good=50), new], ignore_index=True))


def test_an_empty_index_is_refused() -> None:
    assert "there are at least 20 readable, labelled images" in refused(index().iloc[:0])


def test_a_suite_that_lets_a_canary_pass_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "canaries", lambda _kinds: {"harmless": index()})
    with pytest.raises(TireError, match="let the harmless canary pass"):
        judge(index(), Limits())


GROUPED = index().assign(group=[f"tyre-{i // 2}" for i in range(100)])
DIVIDED = index().assign(split=["train", "train", "train", "val", "test"] * 20)


@pytest.mark.parametrize(
    ("frame", "kinds"),
    [
        (index(), ()),
        (GROUPED, ("grouped",)),
        (DIVIDED, ("divided",)),
        (DIVIDED.assign(group=GROUPED["group"]), ("grouped", "divided")),
        (DIVIDED.assign(split=["test"] + [""] * 99), ()),
    ],
)
def test_data_of_every_kind_passes_its_own_suite(frame: pd.DataFrame, kinds: tuple[str, ...]) -> None:
    assert suites.kinds_of(frame) == kinds
    assert all(v.ok for v in judged(frame))


def test_grouped_data_is_refused_where_a_class_comes_from_two_things() -> None:
    two = GROUPED.assign(group=GROUPED["group"].where(GROUPED["label"] == "good", "tyre-90"))
    two.loc[99, "group"] = "tyre-91"
    demand = "every class has images of at least three groups"
    assert list(refused(two)) == [demand]
    assert "bad" in refused(two)[demand]


def test_grouped_data_with_gaps_is_warned_of() -> None:
    gaps = GROUPED.assign(group=GROUPED["group"].where(GROUPED.index < 90, index()["group"]))
    assert [v.demand for v in judged(gaps) if not v.ok] == ["every image has a group, where some have one"]


@pytest.mark.parametrize("side", ["train", "val", "test"])
def test_divided_data_is_refused_where_a_side_lacks_a_class(side: str) -> None:
    other = {"train": "val", "val": "test", "test": "train"}[side]
    lacking = DIVIDED.assign(
        split=DIVIDED["split"].where((DIVIDED["label"] != "bad") | (DIVIDED["split"] != side), other)
    )
    (demand,) = refused(lacking)
    assert demand == f"every class has images on the {side} side that was given"


@pytest.mark.parametrize("kinds", [(), ("grouped",), ("divided",), ("grouped", "divided")])
def test_every_canary_is_refused_for_its_own_fault(kinds: tuple[str, ...]) -> None:
    limits = Limits(num_images_min=3, images_per_class_min=2)
    for name, canary in suites.canaries(kinds).items():
        failed = [v for v in expectations._judge(canary, limits, Signals(), kinds) if v.refuses]
        assert failed, name
        assert name in ("empty", "all-null", "unreadable") or len(failed) == 1, name


def test_a_refusal_says_each_demand_what_was_found_and_the_fix() -> None:
    frame = index(good=50, cut=3)
    frame.loc[:4, "error"] = "This is no readable image (truncated)."
    record = report.as_record("v1", "d" * 64, frame, judged(frame))
    assert not record["ok"]
    said = str(report.refusal(record))
    assert "'v1' was refused; nothing was trained" in said
    assert "(1) every class has at least 10 images: 1 of 2 are not: " in said
    assert "Add images to the small classes" in said
    assert "(2) at most 1.0% of the files are unreadable: " in said
    assert "First unreadable file: good/0.jpg: This is no readable image" in said


SUSPECT = Suspect("a", "a", "good", "bad", 0.1)


@pytest.mark.parametrize(
    ("signals", "warning"),
    [
        (
            Signals(probe=0.61),
            "size, format, camera and brightness tell the label at most at 0.60",
        ),
        (Signals(smallest_class_share=0.05), "the smallest class has at least a tenth of the images of the largest"),
        (Signals(largest_group_share=0.21), "no group holds more than 20 % of the images"),
        (Signals(duplicates=[list(range(12))]), "at most 10 % of the images are near-copies of another"),
        (Signals(suspects=[SUSPECT] * 3), "at most 2 % of the labels are doubtful"),
        (
            Signals(outliers=[Outlier(str(i), "", "brightness", 1.0, 50.0, 100.0) for i in range(3)]),
            "at most 2 % of the images stand apart in size, light or focus",
        ),
        (
            Signals(shifts=[Shift("brightness", 0.5, 1e-9, "median 100", "median 50")]),
            "nothing has shifted against the data of the model in production",
        ),
        (Signals(new_classes=["cut"]), "the classes are those of the model in production"),
    ],
)
def test_each_signal_warns_alone_and_refuses_nothing(signals: Signals, warning: str) -> None:
    verdicts = judged(index(), signals=signals)
    assert [v.demand for v in verdicts if v.warns] == [warning]
    assert not any(v.refuses for v in verdicts)


def test_the_metadata_probe_refuses_where_it_was_given_a_limit() -> None:
    limits, told = Limits(probe_max=0.7), Signals(probe=0.71)
    assert [v.demand for v in judged(index(), limits, told) if v.refuses] == [
        "the metadata probe reaches at most 0.70 (--max-probe)"
    ]
    assert not any(v.refuses for v in judged(index(), limits, Signals(probe=0.69)))
