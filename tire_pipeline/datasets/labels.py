"""Which class, group and split an image has: from labels.csv where there is one, else from its folders."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tire_pipeline.errors import InputError
from tire_pipeline.several_labels import combine

LABELS_FILE = "labels.csv"
LABEL_PREFIX = "label:"
SPLITS = ("train", "val", "test")
KEPT_VALUES_MAX = 100  # of a column: a serial number or a remark divides nothing, and a million of them take memory


@dataclass(frozen=True, slots=True)
class Labelled:
    """What is known of one path. An empty `label` means: for prediction only.

    `columns`: what the other columns of labels.csv say of it, as JSON by column; empty where they say nothing.
    """

    label: str = ""
    group: str = ""
    split: str = ""
    columns: str = ""


@dataclass(frozen=True)
class Columns:
    """Names of labels.csv's columns. `path` and `label` must exist, the others may.

    `label` may be several, with commas between them (`condition,view`): see `several_labels`. Where there is no column
    `label`, those that are called `label:condition`, `label:view` and so on are taken.
    """

    path: str = "path"
    label: str = "label"
    group: str = "group"
    split: str = "split"


def read_text(data: bytes, *, where: str) -> str:
    """The text of a labels.csv. Raises InputError for anything but UTF-8, with the byte where it ends being so."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} is not UTF-8 (byte {error.start} is 0x{data[error.start]:02x}). Save it as 'CSV UTF-8'."
        ) from None


def of_path(path: str) -> Labelled:
    """`<class>/…` or `{train,val,test}/<class>/…` to its label. A path without a folder has none."""
    folders = path.split("/")[:-1]
    if len(folders) >= 2 and folders[0] in SPLITS:
        return Labelled(label=folders[1], split=folders[0])
    return Labelled(label=folders[0] if folders else "")


def from_csv(text: str, *, columns: Columns | None = None) -> dict[str, Labelled]:
    """Rows of a labels.csv by path. Other columns are kept where they have 2 to 100 different values.

    Raises InputError for a missing column, a row without a path, a path given twice, or an unknown split.
    """
    names = columns or Columns()
    reader = csv.DictReader(io.StringIO(text))
    found = reader.fieldnames or []
    label_columns = _label_columns(names, found)
    for needed in (names.path, *label_columns):
        if needed not in found:
            raise InputError(
                f"{LABELS_FILE} has no column {needed!r}; it has {', '.join(map(repr, found)) or 'no header'}. "
                "Rename the column, or name it with --path-column and --label-column."
            )
    others = _dividing(text, {names.path, names.group, names.split, *label_columns})
    labelled: dict[str, Labelled] = {}
    for row in reader:
        path = (row[names.path] or "").strip().removeprefix("./")
        if not path or path in labelled:
            problem = f"gives {path!r} twice" if path else "has no path"
            raise InputError(f"{LABELS_FILE}, line {reader.line_num}, {problem}. Every image has one row.")
        labelled[path] = _labelled(row, names, label_columns, others, reader.line_num)
    return labelled


def as_columns(values: Mapping[str, str]) -> str:
    """The text that `Labelled.columns` holds for these values by column. Equal texts are one object."""
    said = {name: value for name, value in values.items() if value}
    return sys.intern(json.dumps(said, ensure_ascii=False, separators=(",", ":"))) if said else ""


def check_all_there(missing: Collection[str], *, where: str) -> None:
    """Raise InputError when a labels.csv named paths that are not there."""
    if missing:
        raise InputError(
            f"{where} names {len(missing)} images that are not there: {first_of(missing)}. "
            "Paths are relative to the dataset folder, with '/' between folders."
        )


def first_of(keys: Collection[str], count: int = 3) -> str:
    """The first few in order, for a message."""
    return ", ".join(map(repr, sorted(keys)[:count])) + (" …" if len(keys) > count else "")


def _label_columns(names: Columns, found: Sequence[str]) -> dict[str, str]:
    """The label that each column has, by column: empty for the one column of plain classes."""
    prefixed = {c: c.removeprefix(LABEL_PREFIX) for c in found if c.startswith(LABEL_PREFIX)}
    if names.label == Columns.label and names.label not in found and prefixed:
        return prefixed if len(prefixed) > 1 else dict.fromkeys(prefixed, "")
    columns = [c.strip() for c in names.label.split(",")]
    return dict.fromkeys(columns, "") if len(columns) == 1 else {c: c.removeprefix(LABEL_PREFIX) for c in columns}


def _dividing(text: str, taken: Collection[str]) -> list[str]:
    """The columns that are not taken and have few enough different values, but more than one."""
    reader = csv.DictReader(io.StringIO(text))
    values: dict[str, set[str]] = {c: set() for c in reader.fieldnames or () if c and c not in taken}
    for row in reader if values else ():
        for column in [c for c, seen in values.items() if len(seen) <= KEPT_VALUES_MAX]:
            values[column].add((row[column] or "").strip())
    return [column for column, seen in values.items() if 2 <= len(seen) <= KEPT_VALUES_MAX]


def _labelled(
    row: dict[str, str], names: Columns, label_columns: Mapping[str, str], others: Sequence[str], line: int
) -> Labelled:
    split = (row.get(names.split) or "").strip()
    if split and split not in SPLITS:
        raise InputError(f"{LABELS_FILE}, line {line}: the split {split!r} is none of {', '.join(SPLITS)}.")
    values = {name: (row[column] or "").strip() for column, name in label_columns.items()}
    label = values[""] if "" in values else combine(values, where=f"{LABELS_FILE}, line {line},")
    columns = as_columns({c: (row[c] or "").strip() for c in others})
    return Labelled(label=label, group=(row.get(names.group) or "").strip(), split=split, columns=columns)
