"""The first tables of the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0001"
down_revision = None
SCHEMA = "tire"


def upgrade() -> None:
    now = sa.text("now()")
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "snapshots",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("at", moment, nullable=False, server_default=now),
        sa.Column("num_images", sa.Integer, nullable=False),
        sa.Column("classes", JSONB, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "promotions",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("at", moment, nullable=False, server_default=now),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("from_version", sa.Integer),
        sa.Column("to_version", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("evidence", JSONB, nullable=False),
        sa.Column("evidence_digest", sa.Text, nullable=False),
        sa.Column("run_key", sa.Text, nullable=False),
        sa.CheckConstraint(
            "action IN ('registered', 'staged', 'produced', 'refused', 'rolled_back')", name="promotions_action"
        ),
        schema=SCHEMA,
    )
    op.create_index("promotions_model", "promotions", ["model", "id"], schema=SCHEMA)
    _make_append_only("promotions")
    op.create_table(
        "predictions",
        sa.Column("prediction_id", UUID(as_uuid=False), primary_key=True),
        sa.Column("at", moment, nullable=False),
        sa.Column("model_version", sa.Integer),
        sa.Column("model_digest", sa.Text),
        sa.Column("label", sa.Text),
        sa.Column("probability", sa.Float),
        sa.Column("probabilities", JSONB),
        sa.Column("decision", sa.Text),
        sa.Column("latency_ms", sa.Float, nullable=False),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("brightness", sa.Float),
        sa.Column("sharpness", sa.Float),
        sa.Column("sha256", sa.Text),
        sa.Column("error", sa.Text),
        schema=SCHEMA,
    )
    op.create_index("predictions_at", "predictions", ["at"], schema=SCHEMA)
    op.create_table(
        "feedback",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("at", moment, nullable=False, server_default=now),
        sa.Column(
            "prediction_id", UUID(as_uuid=False), sa.ForeignKey(f"{SCHEMA}.predictions.prediction_id"), nullable=False
        ),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        schema=SCHEMA,
    )
    op.create_index("feedback_prediction", "feedback", ["prediction_id"], schema=SCHEMA)
    op.create_table(
        "monitoring_windows",
        sa.Column("start", moment, primary_key=True),
        sa.Column("end", moment, primary_key=True),
        sa.Column("at", moment, nullable=False, server_default=now),
        sa.Column("metrics", JSONB, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "alerts",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("at", moment, nullable=False, server_default=now),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("window_end", moment, nullable=False),
        sa.Column("delivered_at", moment),
        sa.UniqueConstraint("rule", "window_end", name="alerts_once_a_window"),
        schema=SCHEMA,
    )


def downgrade() -> None:
    for table in ("alerts", "monitoring_windows", "feedback", "predictions", "promotions", "snapshots"):
        op.drop_table(table, schema=SCHEMA)
    op.execute(f"DROP FUNCTION {SCHEMA}.refuse_change()")


def _make_append_only(table: str) -> None:
    op.execute(
        f"CREATE FUNCTION {SCHEMA}.refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {SCHEMA}.{table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.refuse_change()"
    )
