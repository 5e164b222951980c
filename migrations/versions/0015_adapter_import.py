"""Adapters that clients bring: what was asked; the result is a row of `adapters` with the same id."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import protect

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "adapter_imports",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
        sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("weights_file", sa.Text, nullable=False),
        sa.Column("config_file", sa.Text, nullable=False),
        sa.Column("suffix", sa.Text),
        sa.Column("metadata", JSONB, nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_index("adapter_imports_by_project", "adapter_imports", ["project_id", "created_at", "id"])
    protect(op, "adapter_imports")


def downgrade() -> None:
    op.drop_table("adapter_imports")
