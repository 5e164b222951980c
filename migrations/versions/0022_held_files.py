"""The bytes that unfinished training jobs and searches read, whatever becomes of the files they came from.

And what follows from the end or the pause of a training job, whoever ended or paused it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import open_to_system, protect

revision = "0022"
down_revision = "0021"

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
# invoked by whoever writes the job: a request or worker in its tenant's transaction, or uplift_system
TELL_STATE = """
CREATE FUNCTION tell_training_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM training_jobs t WHERE t.id = NEW.id) THEN
    INSERT INTO job_events (project_id, job_id, level, type, message)
    VALUES (NEW.project_id, NEW.id, CASE NEW.status WHEN 'failed' THEN 'error' ELSE 'info' END, 'message',
      concat_ws(': ', 'Fine-tuning job ' || NEW.status, CASE NEW.status WHEN 'failed' THEN NEW.error ->> 'message' END));
  END IF;
  RETURN NULL;
END $$
"""
TELL_ON = """
CREATE TRIGGER training_state AFTER UPDATE OF status ON jobs FOR EACH ROW
WHEN (OLD.status IS DISTINCT FROM NEW.status AND NEW.status IN ('paused', 'failed', 'cancelled')
  AND NEW.kind IN ('training.train_adapter', 'training.order_adapter'))
EXECUTE FUNCTION tell_training_state()
"""
ORDER_RELEASE = """
CREATE FUNCTION order_training_release() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE ordered text := 'job_' || replace(gen_random_uuid()::text, '-', '');
BEGIN
  IF EXISTS (SELECT FROM training_jobs t WHERE t.id = NEW.id AND t.resume_blob_key IS NOT NULL)
     OR EXISTS (SELECT FROM held_files h WHERE h.owner_id = NEW.id) THEN
    INSERT INTO jobs (id, project_id, kind, queue, subject_id, payload, request_id, trace_id)
    VALUES (ordered, NEW.project_id, 'training.release', 'search', NEW.id,
            jsonb_build_object('training_job_id', NEW.id), NEW.request_id, NEW.trace_id);
    INSERT INTO outbox (project_id, job_id, queue) VALUES (NEW.project_id, ordered, 'search');
  END IF;
  RETURN NULL;
END $$
"""
ORDER_ON = """
CREATE TRIGGER training_release AFTER UPDATE OF status ON jobs FOR EACH ROW
WHEN (OLD.status IS DISTINCT FROM NEW.status AND NEW.status IN ('succeeded', 'failed', 'cancelled')
  AND NEW.kind IN ('training.train_adapter', 'training.order_adapter'))
EXECUTE FUNCTION order_training_release()
"""
RELEASE_OLD = """
WITH ordered AS (
  INSERT INTO jobs (id, project_id, kind, queue, subject_id, payload)
  SELECT 'job_' || replace(gen_random_uuid()::text, '-', ''), t.project_id, 'training.release', 'search', t.id,
    jsonb_build_object('training_job_id', t.id)
  FROM training_jobs t JOIN jobs j ON j.id = t.id
  WHERE t.resume_blob_key IS NOT NULL AND j.status IN ('succeeded', 'failed', 'cancelled')
  RETURNING id, project_id, queue)
INSERT INTO outbox (project_id, job_id, queue) SELECT o.project_id, o.id, o.queue FROM ordered o
"""
TOUCHED = ("training_jobs", "searches", "files", "jobs", "outbox")


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
    for table in TOUCHED:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute(HOLD)
    op.execute(RELEASE_OLD)
    for table in TOUCHED:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.drop_column("training_jobs", "store_files")
    protect(op, "held_files")
    for table in ("training_jobs", "held_files"):
        open_to_system(op, table, "SELECT")
    open_to_system(op, "job_events", "INSERT")
    for statement in (TELL_STATE, TELL_ON, ORDER_RELEASE, ORDER_ON):
        op.execute(statement)


def downgrade() -> None:
    for trigger, function in (("training_state", "tell_training_state"), ("training_release", "order_training_release")):
        op.execute(f"DROP TRIGGER {trigger} ON jobs")
        op.execute(f"DROP FUNCTION {function}()")
    for table in ("training_jobs", "job_events"):
        op.execute(f"DROP POLICY system ON {table}")
        op.execute(f"REVOKE ALL ON {table} FROM uplift_system")
    op.add_column("training_jobs", sa.Column("store_files", JSONB))
    op.drop_table("held_files")
