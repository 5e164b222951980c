"""Uploads in parts, and the sweep that orders the deletion of expired files and uploads."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import add_system_function, drop_system_function, open_to_system, protect

revision = "0009"
down_revision = "0008"

MOMENT = sa.TIMESTAMP(timezone=True)
ORDER_PURGES = """
CREATE FUNCTION order_purges(every_seconds double precision) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  WITH due AS (
    SELECT f.project_id FROM files f WHERE f.expires_at <= now()
    UNION
    SELECT u.project_id FROM uploads u WHERE u.status = 'pending' AND u.expires_at <= now()),
  ordered AS (
    INSERT INTO jobs (id, project_id, kind, queue, payload)
    SELECT 'job_' || replace(gen_random_uuid()::text, '-', ''), d.project_id, 'data.purge_expired', 'data', '{}'
    FROM due d WHERE NOT EXISTS (
      SELECT FROM jobs j WHERE j.project_id = d.project_id AND j.kind = 'data.purge_expired'
        AND (j.status NOT IN ('succeeded', 'failed', 'cancelled')
             OR j.created_at > now() - make_interval(secs => every_seconds)))
    RETURNING id, project_id, queue),
  sent AS (INSERT INTO outbox (project_id, job_id, queue) SELECT o.project_id, o.id, o.queue FROM ordered o RETURNING 1)
  SELECT count(*) FROM sent
$$"""


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("mime_type", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="pending"),
        sa.Column("file_lifetime", sa.Integer),
        sa.Column("file_id", sa.Text),
        sa.Column("part_ids", JSONB),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.CheckConstraint("status IN ('pending', 'completed', 'cancelled', 'expired')", name="uploads_status"),
        sa.CheckConstraint("(status = 'completed') = (file_id IS NOT NULL)", name="uploads_completed"),
    )
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("upload_id", sa.Text, sa.ForeignKey("uploads.id", ondelete="CASCADE"), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("blob_key", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
    )
    op.create_index("upload_parts_by_upload", "upload_parts", ["upload_id"])
    op.create_index("upload_parts_by_blob", "upload_parts", ["project_id", "blob_key"])
    op.execute("CREATE INDEX uploads_pending ON uploads (expires_at) WHERE status = 'pending'")
    op.execute("CREATE INDEX files_expiring ON files (expires_at) WHERE expires_at IS NOT NULL")
    protect(op, "uploads")
    protect(op, "upload_parts")
    open_to_system(op, "uploads", "SELECT")
    open_to_system(op, "files", "SELECT")
    add_system_function(op, "order_purges(double precision)", ORDER_PURGES)


def downgrade() -> None:
    drop_system_function(op, "order_purges(double precision)")
    op.execute("DROP POLICY system ON files")
    op.execute("REVOKE SELECT ON files FROM uplift_system")
    op.execute("DROP INDEX files_expiring")
    op.drop_table("upload_parts")
    op.drop_table("uploads")


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)
