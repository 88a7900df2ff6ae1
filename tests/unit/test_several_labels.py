from __future__ import annotations

import pytest

from tire_pipeline.datasets.labels import Columns, Labelled, from_csv
from tire_pipeline.errors import InputError
from tire_pipeline.several_labels import combine, membership, positives, take_apart, values_by_label

CLASSES = ["condition=bad;view=side", "condition=good;view=side", "condition=good;view=tread"]


def test_several_columns_make_one_class() -> None:
    text = "path,condition,view,group\n1.jpg,bad, side ,t1\n2.jpg,,,t2\n"
    rows = from_csv(text, columns=Columns(label="condition, view"))
    assert rows == {"1.jpg": Labelled("condition=bad;view=side", "t1"), "2.jpg": Labelled("", "t2")}


def test_columns_that_say_that_they_are_labels_need_no_option() -> None:
    text = "path,label:condition,label:view\n1.jpg,bad,side\n"
    assert from_csv(text) == {"1.jpg": Labelled("condition=bad;view=side")}
    assert from_csv("path,label:view\n1.jpg,side\n") == {"1.jpg": Labelled("side")}
    assert from_csv("path,label,label:view\n1.jpg,bad,side\n") == {"1.jpg": Labelled("bad")}


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("condition,view", "bad,", r"line 2, has no view, but other labels. Give an image all of its labels, or none"),
        ("condition,view", "a=b,side", r"line 2, has the condition 'a=b'. With several labels"),
        ("condition,view", "bad,si;de", r"has the view 'si;de'"),
        ("label:größe,label:view", "bad,side", r"has the größe 'bad'"),
    ],
)
def test_labels_that_cannot_be_combined_are_refused_with_their_line(header: str, row: str, said: str) -> None:
    columns = Columns() if "label:" in header else Columns(label=header)
    with pytest.raises(InputError, match=said):
        from_csv(f"path,{header}\n1.jpg,{row}\n", columns=columns)


def test_a_missing_one_of_several_columns_is_named() -> None:
    with pytest.raises(InputError, match="no column 'view'"):
        from_csv("path,condition\n1.jpg,bad\n", columns=Columns(label="condition,view"))


def test_a_combination_comes_apart_as_it_was_made() -> None:
    values = {"condition": "bad", "view": "left side"}
    assert take_apart(combine(values, where="x")) == values
    assert combine(dict(reversed(values.items())), where="x") == combine(values, where="x")


@pytest.mark.parametrize("name", ["good", "a=b", "a;b", "a=;b=c", "", "=a;=b"])
def test_plain_classes_stay_plain(name: str) -> None:
    assert take_apart(name) == {}
    assert values_by_label([name, "bad"]) == {}
    assert membership([name, "bad"]) is None


def test_membership_says_which_values_each_class_has() -> None:
    assert values_by_label(CLASSES) == {"condition": ["bad", "good"], "view": ["side", "tread"]}
    assert membership(CLASSES) == [[True, False, True, False], [False, True, True, False], [False, True, False, True]]
    assert membership([*CLASSES, "plain"]) is None


@pytest.mark.parametrize(
    ("classes", "named", "expected"),
    [
        (["bad", "good"], "bad", (0,)),
        (["bad", "good"], "defective", ()),
        (["bad", "good"], None, ()),
        (CLASSES, "bad", (0,)),
        (CLASSES, "good", (1, 2)),
        (CLASSES, "condition", ()),
        (CLASSES, "condition=good;view=tread", ()),
        ([*CLASSES, "bad"], "bad", (3,)),
        (["tread=bad;wall=good", "tread=good;wall=bad", "tread=good;wall=good"], "bad", (0, 1)),
        (CLASSES[1:], "good", ()),  # nothing would be left that is not
    ],
)
def test_positive_is_the_class_of_that_name_or_what_combines_it(
    classes: list[str], named: str | None, expected: tuple[int, ...]
) -> None:
    assert positives(classes, named) == expected
