"""Which licences of pretrained weights forbid commercial use. A factory's model is commercial use."""

from __future__ import annotations

import re

# By the short names that model hubs use. Research licences allow research alone.
_FORBIDS = re.compile(r"(^|[^a-z])nc([^a-z]|$)|non-?commercial|research|^apple-amlr$|^seer-license$", re.IGNORECASE)
UNKNOWN = ("", "unknown", "other")


def forbids_commercial_use(licence: str) -> bool:
    return bool(_FORBIDS.search(licence))
