"""Stores that expire, batches of files, a strategy per file; tenancy checks that run once a query."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import TENANT, protect

revision = "0012"
down_revision = "0010"

MOMENT = sa.TIMESTAMP(timezone=True)
TENANT_BEFORE = "nullif(current_setting('app.project_id', true), '')"

# Files that wait now belong to the newest job that was ordered for them.
ADOPT_WAITING_FILES = """
UPDATE vector_store_files f SET job_id = (
  SELECT j.id FROM jobs j WHERE j.subject_id = f.vector_store_id AND j.kind = 'retrieval.index_vector_store'
    AND j.payload -> 'file_ids' ? f.file_id ORDER BY j.created_at DESC LIMIT 1)
WHERE f.status = 'in_progress'
"""
FORGET_FILE_IDS = """
UPDATE jobs SET payload = payload - 'file_ids'
WHERE kind = 'retrieval.index_vector_store' AND status NOT IN ('succeeded', 'failed', 'cancelled')
"""

# A policy is a table's own: every one that protect() made is written anew. organisations has another form.
REWRITE_POLICIES = """
DO $$ DECLARE protected record; mine text;
BEGIN
  FOR protected IN SELECT tablename FROM pg_policies
                   WHERE schemaname = 'public' AND policyname = 'tenant' AND tablename <> 'organisations' LOOP
    mine := CASE protected.tablename WHEN 'projects' THEN 'id' ELSE 'project_id' END || ' = ' || $tenant${tenant}$tenant$;
    EXECUTE format('ALTER POLICY tenant ON %I USING (%s) WITH CHECK (%s)', protected.tablename, mine, mine);
  END LOOP;
END $$
"""


def upgrade() -> None:
    op.execute(REWRITE_POLICIES.replace("{tenant}", TENANT))
    op.add_column("vector_stores", sa.Column("description", sa.Text))
    op.add_column("vector_stores", sa.Column("expires_days", sa.Integer))
    op.create_index("vector_stores_by_project", "vector_stores", ["project_id", "created_at", "id"])
    op.add_column("vector_store_files", sa.Column("chunking", JSONB))
    op.add_column("vector_store_files", sa.Column("job_id", sa.Text))
    op.create_index("vector_store_files_in_order", "vector_store_files", ["vector_store_id", "created_at", "file_id"])
    _adopt_waiting_files()
    _batches()


def _adopt_waiting_files() -> None:
    """The owner obeys row-level security too, so it is lifted for two statements of the same transaction."""
    tables = ("vector_store_files", "jobs")
    for table in tables:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute(ADOPT_WAITING_FILES)
    op.execute(FORGET_FILE_IDS)
    for table in tables:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def _batches() -> None:
    op.create_table(
        "vector_store_batches",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("vector_store_id", sa.Text, sa.ForeignKey("vector_stores.id", ondelete="CASCADE"), nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="in_progress"),
        sa.Column("file_counts", JSONB),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.CheckConstraint(
            "status IN ('in_progress', 'completed', 'cancelled', 'failed')", name="vector_store_batches_status"
        ),
        sa.CheckConstraint("(status = 'in_progress') = (file_counts IS NULL)", name="vector_store_batches_end"),
    )
    op.create_index("vector_store_batches_by_store", "vector_store_batches", ["vector_store_id"])
    op.create_table(
        "vector_store_batch_files",
        sa.Column(
            "batch_id", sa.Text, sa.ForeignKey("vector_store_batches.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("file_id", sa.Text, primary_key=True),
        sa.Column("vector_store_id", sa.Text, nullable=False),
        _project(),
        sa.ForeignKeyConstraint(
            ["vector_store_id", "file_id"],
            ["vector_store_files.vector_store_id", "vector_store_files.file_id"],
            ondelete="CASCADE",
        ),
    )
    op.create_index("vector_store_batch_files_by_file", "vector_store_batch_files", ["vector_store_id", "file_id"])
    for table in ("vector_store_batches", "vector_store_batch_files"):
        protect(op, table)


def downgrade() -> None:
    op.drop_table("vector_store_batch_files")
    op.drop_table("vector_store_batches")
    op.drop_index("vector_store_files_in_order", "vector_store_files")
    for column in ("job_id", "chunking"):
        op.drop_column("vector_store_files", column)
    op.drop_index("vector_stores_by_project", "vector_stores")
    for column in ("expires_days", "description"):
        op.drop_column("vector_stores", column)
    op.execute(REWRITE_POLICIES.replace("{tenant}", TENANT_BEFORE))


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)
