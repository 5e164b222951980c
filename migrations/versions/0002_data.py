"""Tables of the data service."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from migrations.rls import protect

revision = "0002"
down_revision = "0001"

MOMENT = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("blob_key", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="processed"),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", MOMENT),
    )
    op.create_index("files_by_age", "files", ["project_id", "created_at", "id"])
    op.create_index("files_by_blob", "files", ["project_id", "blob_key"])
    op.create_table(
        "datasets",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="pending"),
        sa.Column("sha256", sa.Text),
        sa.Column("sizes", JSONB),
        sa.Column("report", JSONB),
        sa.Column("lineage", JSONB, nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("job_id", sa.Text),
        sa.Column("error", JSONB),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.CheckConstraint("status IN ('pending', 'ready', 'failed')", name="datasets_status"),
        sa.CheckConstraint("status <> 'ready' OR (sha256 IS NOT NULL AND sizes IS NOT NULL)", name="datasets_ready"),
    )
    op.create_index("datasets_by_age", "datasets", ["project_id", "created_at", "id"])
    op.create_table(
        "examples",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("dataset_id", sa.Text, sa.ForeignKey("datasets.id", ondelete="CASCADE"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("split", sa.Text, nullable=False),
        sa.Column("messages", JSONB, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("documents", ARRAY(sa.Text), nullable=False),
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("metadata", JSONB, nullable=False),
        sa.Column("provenance", JSONB, nullable=False),
        sa.Column("passages", JSONB),
        sa.UniqueConstraint("dataset_id", "position", name="examples_position"),
        sa.CheckConstraint("split IN ('train', 'validation', 'test')", name="examples_split"),
    )
    for table in ("files", "datasets", "examples"):
        protect(op, table)


def downgrade() -> None:
    for table in ("examples", "datasets", "files"):
        op.drop_table(table)


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)
