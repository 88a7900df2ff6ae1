"""Airflow for tests: a home of its own, our plugins on the path, before anything imports it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

os.environ.update(
    AIRFLOW_HOME=tempfile.mkdtemp(prefix="tire-airflow-"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__PLUGINS_FOLDER=str(REPOSITORY / "plugins"),
    AIRFLOW__CORE__DAGS_FOLDER=str(REPOSITORY / "dags"),
)
sys.path.insert(0, str(REPOSITORY / "plugins"))
