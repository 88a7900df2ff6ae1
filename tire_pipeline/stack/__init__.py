"""The embedded stack: PostgreSQL, S3, MLflow, Airflow and the serving process on loopback, without Docker.

lifecycle    up, down, status, wait: the only doors
doctor       what this machine lacks, before or after
config       stack.env: ports and secrets, written once
ports        which port each part gets, and who holds a taken one
parts        each part's command and environment        airflow_env: Airflow's share of it
supervision  supervisord: start, ask, stop              launch: the few lines between it and a part
postgres     initdb, roles, databases, the account      migrations: schemas, only when versions changed
s3_server    the S3 part, which ends where the disk is full
processes    every process of this stack and no other   health: does a part answer?
"""

from __future__ import annotations

from tire_pipeline.stack.doctor import doctor
from tire_pipeline.stack.home import disk_shortage
from tire_pipeline.stack.lifecycle import down, status, up, wait
from tire_pipeline.stack.records import ALL_PARTS, Check, PartStatus, Ports, StackInfo

__all__ = [
    "ALL_PARTS",
    "Check",
    "PartStatus",
    "Ports",
    "StackInfo",
    "disk_shortage",
    "doctor",
    "down",
    "status",
    "up",
    "wait",
]
