import json
from dataclasses import asdict

import pytest

from tests.unit.fakes import evaluation
from tire_pipeline.errors import InputError
from tire_pipeline.refs import EvaluationRef, SnapshotRef, SplitRef, check_version, digest_of


def test_nested_references_come_back_whole_from_json() -> None:
    split = SplitRef(SnapshotRef("v1", "d", 10, ["a", "b"]), "p", 6, 2, 2)
    assert SplitRef.from_dict(json.loads(json.dumps(asdict(split)))) == split
    assert EvaluationRef.from_dict(json.loads(json.dumps(asdict(evaluation())))) == evaluation()


@pytest.mark.parametrize("name", ["a", "0", "2026-11-line3", "a.b_c-d", "a" * 63])
def test_version_names_that_are_allowed(name: str) -> None:
    assert check_version(name) == name


@pytest.mark.parametrize("name", ["", ".a", "_a", "-a", "A", "a" * 64, "a\n", "a/b", "ä"])
def test_version_names_that_are_not(name: str) -> None:
    with pytest.raises(InputError, match=r"is not a dataset version name.* Example: 2026-11-line3"):
        check_version(name)


def test_a_digest_does_not_depend_on_the_order_of_keys_but_on_every_value() -> None:
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1, "b": [2, 1]}) != digest_of({"a": 1, "b": [1, 2]})
