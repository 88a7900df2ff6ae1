"""Several labels of an image as one class, and back: `condition=defective;view=tread`. Pure; see docs/adr/0011."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tire_pipeline.errors import InputError

BETWEEN, IS = ";", "="
_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # they become parts of metrics' names


def combine(values: Mapping[str, str], *, where: str) -> str:
    """The class of an image with these values by label, whose order does not matter; empty where it has none at all.

    Raises InputError where only some are there, or a name or value holds what would be misread.
    """
    if not any(values.values()):
        return ""
    for name, value in values.items():
        if not value:
            raise InputError(
                f"{where} has no {name}, but other labels. Give an image all of its labels, or none: then it is for "
                "prediction only."
            )
        if not _NAME.fullmatch(name) or BETWEEN in value or IS in value:
            raise InputError(
                f"{where} has the {name} {value!r}. With several labels, their names are letters, digits, '_', '-' and "
                "'.', and values hold no ';' or '='."
            )
    return BETWEEN.join(f"{name}{IS}{value}" for name, value in sorted(values.items()))


def take_apart(name: str) -> dict[str, str]:
    """The values by label of a class that `combine` made; of any other class none."""
    parts = [part.partition(IS) for part in name.split(BETWEEN)]
    if len(parts) < 2 or not all(label and is_ and value for label, is_, value in parts):
        return {}
    return {label: value for label, _, value in parts}


def values_by_label(classes: Sequence[str]) -> dict[str, list[str]]:
    """The values of each label that the classes combine, in order; of plain classes, or other mixtures, none."""
    apart = [take_apart(name) for name in classes]
    labels = list(apart[0]) if apart else []
    if not labels or any(list(values) != labels for values in apart):
        return {}
    return {label: sorted({values[label] for values in apart}) for label in labels}


def positives(classes: Sequence[str], positive_class: str | None) -> tuple[int, ...]:
    """Indices of the classes that are positive: the one of that name or, where classes combine several labels, those
    that have it among their values. None where all of them would be."""
    combined = bool(values_by_label(classes))
    names = [take_apart(name).values() if combined else (name,) for name in classes]
    found = [i for i, values in enumerate(names) if positive_class in values]
    return tuple(found) if len(found) < len(classes) else ()


def membership(classes: Sequence[str]) -> list[list[bool]] | None:
    """Which values (columns, label by label) each class (row) combines. None for plain classes."""
    known = values_by_label(classes)
    if not known:
        return None
    columns = [(label, value) for label, values in known.items() for value in values]
    return [[take_apart(name)[label] == value for label, value in columns] for name in classes]
