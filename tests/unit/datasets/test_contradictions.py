from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tire_pipeline.datasets.contradictions import Contradictions

COLUMNS = ("path", "sha256", "label", "error")


def marked(tmp_path: Path, *pieces: list[tuple[str, str, str, str]]) -> dict[str, str]:
    """Each path's error after pieces of an index of (path, sha256, label, error) were judged together."""
    path, judge = tmp_path / "index.parquet", Contradictions()
    with pq.ParquetWriter(path, pa.schema([(name, pa.string()) for name in COLUMNS])) as writer:
        for piece in pieces:
            rows = pa.table(dict(zip(COLUMNS, map(list, zip(*piece, strict=True)), strict=True)))
            judge.add(rows)
            writer.write_table(rows)
    index = pq.read_table(judge.marked(path)).to_pydict()
    return dict(zip(index["path"], index["error"], strict=True))


def test_copies_with_two_labels_are_all_quarantined_wherever_they_lie(tmp_path: Path) -> None:
    same, other = "a" * 64, "b" * 64
    errors = marked(
        tmp_path,
        [("good/1", same, "good", ""), ("good/2", other, "good", ""), ("good/3", same, "good", "")],
        [("bad/1", same, "bad", ""), ("good/4", other, "good", "")],
    )
    why = "The same picture is 'bad' as bad/1, and 'good' here. Keep the right one of the two."
    assert errors["good/1"] == errors["good/3"] == why
    assert errors["bad/1"].startswith("The same picture is 'good' as good/1, and 'bad' here.")
    assert errors["good/2"] == errors["good/4"] == ""


def test_contents_that_only_begin_alike_do_not_contradict(tmp_path: Path) -> None:
    alike = ["a" * 16 + digit * 48 for digit in "01"]
    assert set(marked(tmp_path, [("good/1", alike[0], "good", ""), ("bad/1", alike[1], "bad", "")]).values()) == {""}


def test_what_is_unreadable_or_without_a_label_contradicts_nothing(tmp_path: Path) -> None:
    same = "a" * 64
    rows = [("good/1", same, "good", ""), ("bad/1", same, "bad", "truncated"), ("new/1", same, "", "")]
    assert marked(tmp_path, rows) == {"good/1": "", "bad/1": "truncated", "new/1": ""}
