"""The history's own owner may add to it and read it, and no more; the trigger of 0001 stands behind."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
TABLE = "tire.promotions"


def upgrade() -> None:
    # A superuser is held by the trigger alone: no permission binds one.
    op.execute(f"REVOKE UPDATE, DELETE, TRUNCATE, TRIGGER ON {TABLE} FROM PUBLIC, CURRENT_USER")


def downgrade() -> None:
    op.execute(f"GRANT UPDATE, DELETE, TRUNCATE, TRIGGER ON {TABLE} TO CURRENT_USER")
