"""How many bytes weights, training states and held files take: they count against a project's quota."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"

SIZED = (("adapters", "bytes"), ("checkpoints", "bytes"), ("held_files", "bytes"), ("training_jobs", "resume_bytes"))
# weights and states count from their next writing on: no row tells what those that are there take
HELD = """
UPDATE held_files h SET bytes = f.bytes
FROM files f WHERE f.project_id = h.project_id AND f.blob_key = h.blob_key
"""
TOUCHED = ("held_files", "files")


def upgrade() -> None:
    for table, column in SIZED:
        # with a default, for workers of the version before this write rows while an upgrade rolls through
        op.add_column(table, sa.Column(column, sa.BigInteger, nullable=False, server_default="0"))
    # the tables are under forced row-level security, which hides every row from its owner too
    for table in TOUCHED:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute(HELD)
    for table in TOUCHED:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    # for the sums: the tables' other indexes begin with a store's or a job's id
    op.create_index("vector_store_files_by_project", "vector_store_files", ["project_id"])
    op.create_index("checkpoints_by_project", "checkpoints", ["project_id"], postgresql_include=["bytes"])
    op.create_index(
        "training_jobs_resuming", "training_jobs", ["project_id"], postgresql_where="resume_blob_key IS NOT NULL"
    )


def downgrade() -> None:
    op.drop_index("training_jobs_resuming", "training_jobs")
    op.drop_index("checkpoints_by_project", "checkpoints")
    op.drop_index("vector_store_files_by_project", "vector_store_files")
    for table, column in SIZED:
        op.drop_column(table, column)
