"""Whether a part of Airflow is healthy by the api-server's word: `healthcheck.py scheduler`."""

from __future__ import annotations

import json
import os
import sys
import urllib.request

with urllib.request.urlopen(f"{os.environ['TIRE_AIRFLOW_URL']}/api/v2/monitor/health", timeout=5) as answer:  # noqa: S310
    status = json.load(answer)[sys.argv[1]]["status"]
sys.exit(0 if status == "healthy" else f"{sys.argv[1]} is {status}")
