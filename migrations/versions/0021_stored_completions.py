"""Chat completions that are kept with what was asked."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import protect

revision = "0021"
down_revision = "0020"

MOMENT = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "stored_completions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("metadata", JSONB, nullable=False),
        sa.Column("completion", sa.Text, nullable=False),
        sa.Column("messages", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", MOMENT),
    )
    op.create_index("stored_completions_by_age", "stored_completions", ["project_id", "created_at", "id"])
    # for the sweep of what has expired, and for the sum of what is stored, which reads the index alone
    op.create_index(
        "stored_completions_expiring",
        "stored_completions",
        ["project_id", "expires_at"],
        postgresql_include=["bytes"],
    )
    protect(op, "stored_completions")


def downgrade() -> None:
    op.drop_table("stored_completions")
