"""Where things are kept: objects (S3), tracking (MLflow), ledger (PostgreSQL)."""
