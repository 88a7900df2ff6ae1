"""Which class, group and split an image has: from labels.csv where there is one, else from its folders."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tire_pipeline.errors import InputError
from tire_pipeline.several_labels import combine, take_apart

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
    """The text of a CSV. Raises InputError for anything but UTF-8, with the byte where it ends being so, and for a NUL,
    which neither PostgreSQL nor a path can hold."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} is not UTF-8 (byte {error.start} is 0x{data[error.start]:02x}). Save it as 'CSV UTF-8'."
        ) from None
    if (at := text.find("\0")) >= 0:
        raise InputError(
            f"{where}, line {text.count(chr(10), 0, at) + 1}, has a NUL character. Take it out, or save the file as "
            "'CSV UTF-8'."
        )
    return text


def read_rows(text: str, *, where: str) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The columns of a CSV, and its rows as of csv.DictReader, each with the line that it ends in.

    Raises InputError for a column given twice and, as it comes to it, for a row that cannot be read.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = list(reader.fieldnames or [])
    except csv.Error as error:
        raise _unreadable(error, where=where, line=1) from None
    # Spreadsheets end lines with commas: columns without a name may be many.
    if repeated := [name for name, count in Counter(columns).items() if name and count > 1]:
        raise InputError(f"{where} has the column {repeated[0]!r} more than once. Give each column a name of its own.")
    return columns, _numbered(reader, where=where)


def of_path(path: str) -> Labelled:
    """`<class>/…` or `{train,val,test}/<class>/…` to its label. A path without a folder has none."""
    folders = path.split("/")[:-1]
    if len(folders) >= 2 and folders[0] in SPLITS:
        return Labelled(label=folders[1], split=folders[0])
    return Labelled(label=folders[0] if folders else "")


def from_csv(text: str, *, where: str = LABELS_FILE, columns: Columns | None = None) -> dict[str, Labelled]:
    """Rows of a labels.csv by path. Other columns are kept where they have 2 to 100 different values.

    Raises InputError for a missing column, a row without a path, a path given twice, an unknown split, or what
    `read_rows` refuses.
    """
    names = columns or Columns()
    found, rows = read_rows(text, where=where)
    labels = label_columns(names, found)
    for needed in (names.path, *labels):
        if needed not in found:
            raise InputError(
                f"{where} has no column {needed!r}; it has {', '.join(map(repr, found)) or 'no header'}. "
                "Rename the column, or name it with --path-column and --label-column."
            )
    others = _dividing(text, {names.path, names.group, names.split, *labels}, where=where)
    labelled: dict[str, Labelled] = {}
    for line, row in rows:
        path = (row[names.path] or "").strip().removeprefix("./")
        if not path or path in labelled:
            problem = f"gives {path!r} twice" if path else "has no path"
            raise InputError(f"{where}, line {line}, {problem}. Every image has one row.")
        labelled[path] = _labelled(row, names, labels, others, where=f"{where}, line {line}")
    return labelled


def label_columns(names: Columns, found: Sequence[str]) -> dict[str, str]:
    """The label that each column has, by column: empty for the one column of plain classes."""
    prefixed = {c: c.removeprefix(LABEL_PREFIX) for c in found if c.startswith(LABEL_PREFIX)}
    if names.label == Columns.label and names.label not in found and prefixed:
        return prefixed if len(prefixed) > 1 else dict.fromkeys(prefixed, "")
    columns = [c.strip() for c in names.label.split(",")]
    return dict.fromkeys(columns, "") if len(columns) == 1 else {c: c.removeprefix(LABEL_PREFIX) for c in columns}


def class_of(row: Mapping[str, str], labels: Mapping[str, str], *, where: str) -> str:
    """The class that a row has by its `label_columns`, empty where it has none. Errors as of `combine`."""
    values = {label: (row.get(column) or "").strip() for column, label in labels.items()}
    return values[""] if "" in values else combine(values, where=where)


def values_of(name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """What a class says in each of the `label_columns`: its value of the label that the column names, else itself."""
    values = take_apart(name)
    return {column: values.get(column.removeprefix(LABEL_PREFIX), name) for column in labels}


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


def _unreadable(error: csv.Error, *, where: str, line: int) -> InputError:
    return InputError(
        f"{where}, line {line}, cannot be read: {error}. Close the quote that is opened there, or shorten the field."
    )


def _numbered(reader: csv.DictReader[str], *, where: str) -> Iterator[tuple[int, dict[str, str]]]:
    begins = reader.line_num + 1
    try:
        for row in reader:
            yield reader.line_num, row
            begins = reader.line_num + 1
    except csv.Error as error:
        raise _unreadable(error, where=where, line=begins) from None


def _dividing(text: str, taken: Collection[str], *, where: str) -> list[str]:
    """The columns that are not taken and have few enough different values, but more than one."""
    found, rows = read_rows(text, where=where)
    values: dict[str, set[str]] = {c: set() for c in found if c and c not in taken}
    for _, row in rows if values else ():
        for column in [c for c, seen in values.items() if len(seen) <= KEPT_VALUES_MAX]:
            values[column].add((row[column] or "").strip())
    return [column for column, seen in values.items() if 2 <= len(seen) <= KEPT_VALUES_MAX]


def _labelled(
    row: dict[str, str], names: Columns, labels: Mapping[str, str], others: Sequence[str], *, where: str
) -> Labelled:
    split = (row.get(names.split) or "").strip()
    if split and split not in SPLITS:
        raise InputError(f"{where}: the split {split!r} is none of {', '.join(SPLITS)}.")
    label = class_of(row, labels, where=f"{where},")
    columns = as_columns({c: (row[c] or "").strip() for c in others})
    return Labelled(label=label, group=(row.get(names.group) or "").strip(), split=split, columns=columns)
