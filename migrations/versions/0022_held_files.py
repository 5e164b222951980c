"""The bytes that unfinished training jobs and searches read, whatever becomes of the files they came from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import protect

revision = "0022"
down_revision = "0020"

HOLD = """
INSERT INTO held_files (owner_id, project_id, param, position, filename, blob_key)
SELECT o.id, o.project_id, named.param, 0, f.filename, f.blob_key
FROM (
  SELECT t.id, t.project_id, t.training_file, t.validation_file, t.replay_file FROM training_jobs t
  JOIN jobs j ON j.id = t.id WHERE j.status NOT IN ('succeeded', 'failed', 'cancelled')
  UNION ALL
  SELECT s.id, s.project_id, s.training_file, s.validation_file, NULL FROM searches s
  WHERE s.status IN ('running', 'paused')) o
CROSS JOIN LATERAL (VALUES ('training_file', o.training_file), ('validation_file', o.validation_file),
  ('replay_file', o.replay_file)) named(param, file_id)
JOIN files f ON f.id = named.file_id AND f.project_id = o.project_id
UNION ALL
SELECT t.id, t.project_id, store.key, file.number, file.value ->> 0, file.value ->> 1
FROM training_jobs t CROSS JOIN LATERAL jsonb_each(t.store_files) store
CROSS JOIN LATERAL jsonb_array_elements(store.value) WITH ORDINALITY file(value, number)
"""
READ = ("training_jobs", "searches", "files", "jobs")


def upgrade() -> None:
    op.create_table(
        "held_files",
        sa.Column("owner_id", sa.Text, primary_key=True),
        sa.Column("param", sa.Text, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("blob_key", sa.Text, nullable=False),
    )
    op.create_index("held_files_by_blob", "held_files", ["project_id", "blob_key"])
    # the tables are under forced row-level security, which hides every row from its owner too
    for table in READ:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute(HOLD)
    for table in READ:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.drop_column("training_jobs", "store_files")
    protect(op, "held_files")


def downgrade() -> None:
    op.add_column("training_jobs", sa.Column("store_files", JSONB))
    op.drop_table("held_files")
