"""The Tire page in Airflow's menu. Every process of Airflow loads this file; the page itself, only the API server."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin


async def page(scope: Any, receive: Any, send: Any) -> None:
    """The page as an ASGI app, loaded when it is first asked for."""
    from tire_airflow.page import app  # noqa: PLC0415

    await app(scope, receive, send)


class TirePlugin(AirflowPlugin):
    """Airflow's own frame for foreign pages lets no link open; this is an app for React that is a frame and no more."""

    name = "tire"
    fastapi_apps: ClassVar[list[Any]] = [{"name": "Tire", "app": page, "url_prefix": "/tire"}]
    react_apps: ClassVar[list[Any]] = [
        {
            "name": "Tire",
            "bundle_url": "tire/frame.js",
            "destination": "nav",
            "url_route": "tire",
            "nav_top_level": True,
            "icon": "tire/icon.svg",
            "icon_dark_mode": "tire/icon-dark.svg",
        }
    ]
