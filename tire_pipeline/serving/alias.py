"""Which version an alias names, asked of MLflow's REST API without its package (which costs seconds and 200 MB)."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.serving.bundles import Target

TIMEOUT_S = 5.0
DIGEST = re.compile(r"[0-9a-f]{64}")


def alias_target(mlflow_url: str, project: str, *, alias: str) -> Target | None:
    """The version behind the alias, or None while there is none.

    Raises ServiceUnavailable when MLflow does not answer, InputError when the version names no bundle.
    """
    query = urllib.parse.urlencode({"name": project, "alias": alias})
    answer = _get(f"{mlflow_url.rstrip('/')}/api/2.0/mlflow/registered-models/alias?{query}")
    if answer is None:
        return None
    record = answer["model_version"]
    tags = {tag["key"]: tag["value"] for tag in record.get("tags", [])}
    prefix, digest = tags.get("tire.bundle", ""), tags.get("tire.bundle_digest", "")
    if not prefix or not DIGEST.fullmatch(digest):
        raise InputError(
            f"Version {record['version']} of {project} has no tags tire.bundle and tire.bundle_digest, so it cannot be "
            "served. Register its run again with `tire register RUN`."
        )
    return Target(int(record["version"]), digest, prefix)


def _get(url: str) -> Any:
    """The JSON at `url`, or None where MLflow says that there is no such model or alias."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 - the address is our own setting
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            if _says_nothing_there(error):
                return None
        raise ServiceUnavailable(f"MLflow answered {error.code} for {url}. Its log says why.") from error
    except (OSError, ValueError) as error:
        raise ServiceUnavailable(
            f"MLflow did not answer at {url} ({error}). Is it running? TIRE_MLFLOW_URL is the address."
        ) from error


def _says_nothing_there(error: urllib.error.HTTPError) -> bool:
    """MLflow has 404 for an unknown model, but 400 INVALID_PARAMETER_VALUE for an unknown alias of a known one."""
    if error.code not in (400, 404):
        return False
    try:
        record = json.load(error)
    except ValueError:
        return False
    code, message = record.get("error_code"), record.get("message", "")
    return code == "RESOURCE_DOES_NOT_EXIST" or (code == "INVALID_PARAMETER_VALUE" and "not found" in message)
