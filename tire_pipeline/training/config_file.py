"""Configurations in files. Light: the command line reads them without loading torch."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from tire_pipeline.errors import InputError


def read_table(path: Path) -> dict[str, Any]:
    """The table in a TOML file, or the object in a JSON file, by its ending. InputError where there is none."""
    if path.suffix not in (".toml", ".json"):
        raise InputError(f"{path} is neither .toml nor .json, so how to read it is not known.")
    try:
        text = path.read_text()
        table = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:  # both decoders' errors are ValueErrors
        raise InputError(f"{path} cannot be read: {error}.") from None
    if not isinstance(table, dict):
        raise InputError(f"{path} holds a {type(table).__name__}, but must hold an object with names and values.")
    return table
