"""Alembic's entry point; `tire_pipeline.stores.ledger.migrate` hands over the connection, in its transaction."""

from __future__ import annotations

from alembic import context

from tire_pipeline.stores.ledger import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
)
context.run_migrations()
