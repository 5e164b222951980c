"""Tables of the retrieval service."""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR

from migrations.rls import protect

revision = "0004"
down_revision = "0003"

MOMENT = sa.TIMESTAMP(timezone=True)

# After a bulk load the planner knows nothing of the new passages; older servers wait for autovacuum.
MAY_ANALYSE = """
DO $$ BEGIN
  IF current_setting('server_version_num')::int >= 170000 THEN GRANT MAINTAIN ON passages TO uplift_app; END IF;
END $$
"""


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.create_table(
        "vector_stores",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("embedder", sa.Text, nullable=False),
        sa.Column("chunking", JSONB, nullable=False),
        sa.Column("metadata", JSONB, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="in_progress"),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("last_active_at", MOMENT, nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "vector_store_files",
        sa.Column("vector_store_id", sa.Text, sa.ForeignKey("vector_stores.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("file_id", sa.Text, primary_key=True),
        _project(),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="in_progress"),
        sa.Column("last_error", JSONB),
        sa.Column("attributes", JSONB, nullable=False),
        sa.Column("usage_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "documents",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("vector_store_id", sa.Text, nullable=False),
        sa.Column("file_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.UniqueConstraint("vector_store_id", "file_id"),
        sa.ForeignKeyConstraint(
            ["vector_store_id", "file_id"],
            ["vector_store_files.vector_store_id", "vector_store_files.file_id"],
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "passages",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("vector_store_id", sa.Text, nullable=False),
        sa.Column("document_id", sa.Text, sa.ForeignKey("documents.id", ondelete="CASCADE"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("embedding", HALFVEC(), nullable=False),
        sa.Column("search", TSVECTOR, nullable=False),
    )
    op.create_index("passages_by_store", "passages", ["vector_store_id"])
    op.create_index("passages_by_document", "passages", ["document_id", "position"])
    # no GIN index over `search`: its operator is not leakproof, so under row-level security it would never be used
    for table in ("vector_stores", "vector_store_files", "documents", "passages"):
        protect(op, table)
    op.execute(MAY_ANALYSE)


def downgrade() -> None:
    for table in ("passages", "documents", "vector_store_files", "vector_stores"):
        op.drop_table(table)


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)
