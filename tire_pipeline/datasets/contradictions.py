"""The same picture under two labels: which of them is right nobody can tell, so all are quarantined."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_NAMES = ("path", "sha256", "label")


class Contradictions:
    """Collects what is needed of an index's rows, and marks those that contradict each other."""

    def __init__(self) -> None:
        self._seen: list[pa.Table] = []

    def add(self, rows: pa.Table) -> None:
        """Look at the next rows of the index; only readable, labelled ones can contradict."""
        counts = pc.and_(pc.equal(rows["error"], ""), pc.not_equal(rows["label"], ""))
        self._seen.append(rows.select(_NAMES).filter(counts))

    def reasons(self) -> dict[str, str]:
        """Why each contradicting path is quarantined, naming the first path with another label."""
        seen = pa.concat_tables(self._seen)
        labels = seen.group_by("sha256").aggregate([("label", "count_distinct")])
        torn = labels.filter(pc.greater(labels["label_count_distinct"], 1))["sha256"]
        rows = seen.filter(pc.is_in(seen["sha256"], torn.combine_chunks())).to_pylist()
        first: dict[str, dict[str, str]] = {}  # sha256 -> label -> path
        for row in rows:
            first.setdefault(row["sha256"], {}).setdefault(row["label"], row["path"])
        return {row["path"]: _reason(row["label"], first[row["sha256"]]) for row in rows}

    def marked(self, path: Path) -> Path:
        """The index file with its contradicting rows quarantined: itself where there are none, else one beside it."""
        reasons = self.reasons()
        if not reasons:
            return path
        marked = path.with_suffix(".marked")
        index = pq.ParquetFile(path)
        with pq.ParquetWriter(marked, index.schema_arrow) as writer:
            for i in range(index.num_row_groups):
                rows = index.read_row_group(i)
                pairs = zip(rows["path"].to_pylist(), rows["error"].to_pylist(), strict=True)
                errors = pa.array([reasons.get(p, error) for p, error in pairs], pa.string())
                writer.write_table(rows.set_column(rows.schema.get_field_index("error"), "error", errors))
        return marked


def _reason(label: str, paths: dict[str, str]) -> str:
    other = next(name for name in paths if name != label)
    return f"The same picture is {other!r} as {paths[other]}, and {label!r} here. Keep the right one of the two."
