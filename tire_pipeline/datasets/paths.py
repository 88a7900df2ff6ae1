"""Paths inside a dataset version: which are images, and which no file system or tool can be trusted with.

S3 takes any text as a key. Spaces, accents in either Unicode form, pairs that differ in case alone and text that a
shell would run are ordinary names here: nothing compares names loosely and nothing hands them to a shell.
"""

from __future__ import annotations

import unicodedata

from tire_pipeline.imaging import EXTENSIONS

KEY_BYTES_MAX = 1024  # S3's own limit, prefix included


def is_visible(path: str) -> bool:
    """Neither hidden (`.DS_Store`), nor ours (`_READY`), nor the empty object by which S3's console makes a folder.

    A folder `.` or `..` is not hidden but a fault, and is said to be one.
    """
    parts = path.split("/")
    return bool(parts[-1]) and not any(p.startswith((".", "_")) and p not in (".", "..") for p in parts)


def fault_of(path: str) -> str:
    """Why a path cannot be used, in words; empty for one that can."""
    parts = path.split("/")
    if ".." in parts or "." in parts:
        return "Its key has a folder '.' or '..', which leads elsewhere when it is downloaded. Rename the object."
    if "" in parts:
        return "Its key has an empty folder name ('//'), which no file system can hold. Rename the object."
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in path):
        return "Its key has a control character or is not Unicode. Rename the object."
    if not path.lower().endswith(EXTENSIONS):
        return f"This is no image by its name. Allowed are {', '.join(EXTENSIONS)}."
    return ""
