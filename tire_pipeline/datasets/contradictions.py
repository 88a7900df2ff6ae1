"""The same picture under two labels: which of them is right nobody can tell, so all are quarantined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

PREFIX_DIGITS = 16
Prefixes = npt.NDArray[np.uint64]


class Contradictions:
    """Collects what is needed of an index's rows, and marks those that contradict each other.

    Of each row twelve bytes are kept: the beginning of its sha256, and the number of its label. What these make
    suspicious is read again from the index.
    """

    def __init__(self) -> None:
        self._prefixes: list[Prefixes] = []
        self._labels: list[npt.NDArray[np.int32]] = []
        self._numbers: dict[str, int] = {}

    def add(self, rows: pa.Table) -> None:
        """Look at the next rows of the index."""
        rows = rows.filter(_can_contradict(rows))
        numbers = [self._numbers.setdefault(label, len(self._numbers)) for label in rows["label"].to_pylist()]
        self._prefixes.append(_prefixes(rows))
        self._labels.append(np.array(numbers, np.int32))

    def marked(self, path: Path) -> Path:
        """The index file with its contradicting rows quarantined: itself where there are none, else one beside it."""
        reasons = self._reasons(path)
        if not reasons:
            return path
        marked = path.with_suffix(".marked")
        with pq.ParquetWriter(marked, pq.read_schema(path)) as writer:
            for rows in _pieces(path):
                pairs = zip(rows["path"].to_pylist(), rows["error"].to_pylist(), strict=True)
                errors = pa.array([reasons.get(p, error) for p, error in pairs], pa.string())
                writer.write_table(rows.set_column(rows.schema.get_field_index("error"), "error", errors))
        return marked

    def _suspicious(self) -> Prefixes:
        """Beginnings of sha256 that occur with two labels."""
        prefix_N, label_N = np.concatenate(self._prefixes), np.concatenate(self._labels)
        order = np.lexsort((label_N, prefix_N))
        prefix_N, label_N = prefix_N[order], label_N[order]
        torn = (prefix_N[1:] == prefix_N[:-1]) & (label_N[1:] != label_N[:-1])
        return np.unique(prefix_N[1:][torn])

    def _reasons(self, path: Path) -> dict[str, str]:
        """Why each contradicting path is quarantined, naming the first path with another label."""
        suspicious = self._suspicious()
        if not len(suspicious):
            return {}
        found = []
        for rows in _pieces(path, columns=["path", "sha256", "label", "error"]):
            rows = rows.filter(_can_contradict(rows))
            found += rows.filter(pa.array(np.isin(_prefixes(rows), suspicious))).to_pylist()
        first: dict[str, dict[str, str]] = {}  # sha256 -> label -> path
        for row in found:
            first.setdefault(row["sha256"], {}).setdefault(row["label"], row["path"])
        return {row["path"]: _reason(row["label"], paths) for row in found if len(paths := first[row["sha256"]]) > 1}


def _can_contradict(rows: pa.Table) -> pa.ChunkedArray:
    """Only readable, labelled rows can."""
    return pc.and_(pc.equal(rows["error"], ""), pc.not_equal(rows["label"], ""))


def _prefixes(rows: pa.Table) -> Prefixes:
    digits = pc.utf8_slice_codeunits(rows["sha256"], 0, PREFIX_DIGITS).to_pylist()
    return np.frombuffer(bytes.fromhex("".join(digits)), np.uint64)


def _pieces(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as index:
        for number in range(index.num_row_groups):
            yield index.read_row_group(number, columns=columns)


def _reason(label: str, paths: dict[str, str]) -> str:
    other = next(name for name in paths if name != label)
    return f"The same picture is {other!r} as {paths[other]}, and {label!r} here. Keep the right one of the two."
