"""Batches and the answers to their lines."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import protect

revision = "0014"
down_revision = "0012"

MOMENT = sa.TIMESTAMP(timezone=True)
STATUSES = "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
STAMPS = "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("input_file_id", sa.Text, nullable=False),
        sa.Column("input_blob_key", sa.Text),
        sa.Column("metadata", JSONB),
        sa.Column("output_lifetime", sa.Integer),
        sa.Column("model", sa.Text),
        sa.Column("status", sa.Text, nullable=False, server_default="validating"),
        sa.Column("errors", JSONB),
        *(_count(name, sa.Integer()) for name in ("total", "completed", "failed")),
        *(_count(name, sa.BigInteger()) for name in ("input_tokens", "output_tokens")),
        sa.Column("output_file_id", sa.Text),
        sa.Column("error_file_id", sa.Text),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", MOMENT, nullable=False),
        *(sa.Column(f"{stamp}_at", MOMENT) for stamp in STAMPS),
        sa.CheckConstraint(f"status IN ({', '.join(map(repr, STATUSES))})", name="batches_status"),
    )
    op.create_index("batches_by_age", "batches", ["project_id", "created_at", "id"])
    op.create_index("batches_by_blob", "batches", ["project_id", "input_blob_key"])
    op.create_table(
        "batch_answers",
        sa.Column("batch_id", sa.Text, sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("line", sa.Integer, primary_key=True),
        _project(),
        sa.Column("custom_id", sa.Text, nullable=False),
        sa.Column("status_code", sa.Integer, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("input_tokens", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
    )
    protect(op, "batches")
    protect(op, "batch_answers")


def downgrade() -> None:
    op.drop_table("batch_answers")
    op.drop_table("batches")


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)


def _count(name: str, kind: sa.types.TypeEngine[int]) -> sa.Column[int]:
    return sa.Column(name, kind, nullable=False, server_default="0")
