"""The project at a glance, as pages for people."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tire_pipeline.errors import InputError, TireError
from tire_pipeline.steps.live import live

if TYPE_CHECKING:
    from tire_pipeline.registry.overview import Model
    from tire_pipeline.settings import Settings
    from tire_pipeline.stores.tracking import RegisteredVersion
    from tire_pipeline.wiring import Services

HISTORY_SHOWN = 25
ALIASES = {"production": ("produced", "rolled_back"), "staging": ("staged",)}
Found = TypeVar("Found")


def overview_page(*, services: Services | None = None) -> str:
    """HTML: the models in production and staging, the newest report on the data, and the history of promotions.

    What a service that cannot be reached would have told is left out, and the page says so.
    """
    from tire_pipeline.registry.overview import Overview, as_html

    s, problems = live(services), list[str]()

    def asked(ask: Callable[[], Found]) -> Found | None:
        try:
            return ask()
        except TireError as error:
            problems.append(_without_password(str(error)))
            return None

    history = asked(lambda: s.ledger.promotions(model=s.settings.project)) or []
    models = asked(lambda: _models(s)) or []
    data, data_url = asked(lambda: _newest_data(s)) or (None, "")
    links = _links(s.settings)
    shown = history[:HISTORY_SHOWN]
    return as_html(Overview(s.settings.project, links, models, shown, data, data_url, list(dict.fromkeys(problems))))


def model_card(version: int, *, services: Services | None = None) -> str:
    """HTML: the model card of a registered version. InputError when there is no such version, or it has no card."""
    s = live(services)
    found = next((v for v in s.tracking.versions() if v.version == version), None)
    if found is None:
        raise InputError(f"{s.settings.project} has no version {version}.")
    with tempfile.TemporaryDirectory(prefix="tire-card-") as tmp:
        return s.tracking.download(found.run_id, "evaluation/model_card.html", Path(tmp)).read_text(encoding="utf-8")


def data_report(snapshot_digest: str, *, services: Services | None = None) -> str:
    """HTML: the report on a snapshot. InputError when there is none."""
    if not re.fullmatch(r"[0-9a-f]{64}", snapshot_digest):
        raise InputError("A snapshot's digest is 64 hex digits.")
    return live(services).objects.get(f"snapshots/{snapshot_digest}/report.html").decode()


def _models(s: Services) -> list[Model]:
    """The versions behind the aliases, each once."""
    history = s.ledger.promotions(model=s.settings.project, actions=[a for row in ALIASES.values() for a in row])
    by_alias = {alias: found for alias in ALIASES if (found := s.tracking.by_alias(alias)) is not None}
    versions = {found.version: found for found in by_alias.values()}
    return [
        _model(s, version, tuple(a for a, found in by_alias.items() if found.version == number), history)
        for number, version in versions.items()
    ]


def _model(
    s: Services, version: RegisteredVersion, aliases: tuple[str, ...], history: Sequence[Mapping[str, Any]]
) -> Model:
    from tire_pipeline.registry.overview import Model

    moves = (r for r in history if r["action"] in ALIASES[aliases[0]] and r["to_version"] == version.version)
    return Model(
        aliases=aliases,
        version=version.version,
        candidate=version.tags.get("tire.candidate", ""),
        dataset_version=version.tags.get("tire.version", ""),
        run_url=_without_password(s.tracking.run_url(version.run_id)),
        metrics=s.tracking.metrics(version.run_id),
        moved=next(moves, None),
    )


def _newest_data(s: Services) -> tuple[dict[str, Any] | None, str]:
    """The record of the newest report on data, of a refused version too, and the report's address."""
    run_id = s.tracking.newest_with("tire.data")
    if run_id is None:
        return None, ""
    digest = s.tracking.tags(run_id)["tire.snapshot"]
    url = _without_password(s.tracking.run_url(run_id))
    return s.objects.get_json(f"snapshots/{digest}/report.json"), f"{url}/artifacts/report.html"


def _links(settings: Settings) -> dict[str, str]:
    """Where people's browsers find the other pages."""
    serving = settings.serving_public_url or settings.serving_url
    found = {
        "MLflow": settings.mlflow_public_url or settings.mlflow_url,
        "Classify pictures": serving,
        "The server's API": serving and f"{serving.rstrip('/')}/docs",
    }
    return {name: _without_password(url) for name, url in found.items() if url.startswith(("http://", "https://"))}


def _without_password(text: str) -> str:
    """The text, its addresses without what stands before `@`."""
    return re.sub(r"//[^/@\s]*@", "//", text)
