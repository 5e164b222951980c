"""Tenants, API keys, jobs with leases and fences, the outbox, and the few functions that see across tenants."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import TENANT, open_to_system, protect

revision = "0001"
down_revision = None

ROLES = """
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'uplift_app') THEN CREATE ROLE uplift_app NOLOGIN; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'uplift_system') THEN CREATE ROLE uplift_system NOLOGIN; END IF;
  -- the owner hands functions over to uplift_system, which takes the right to become it
  EXECUTE format('GRANT uplift_system TO %I WITH INHERIT FALSE, SET TRUE', current_user);
END $$
"""

GUARD_TERMINAL = """
CREATE FUNCTION guard_terminal_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.status IN ('succeeded', 'failed', 'cancelled') AND NEW.status IS DISTINCT FROM OLD.status THEN
    RAISE EXCEPTION 'job % is %: a terminal state is final', OLD.id, OLD.status USING ERRCODE = 'UP001';
  END IF;
  RETURN NEW;
END $$
"""

ANNOUNCE_END = """
CREATE FUNCTION announce_job_end() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE announced text := 'job_' || replace(gen_random_uuid()::text, '-', '');
BEGIN
  IF NEW.status IN ('succeeded', 'failed', 'cancelled') AND OLD.status IS DISTINCT FROM NEW.status THEN
    NEW.finished_at := now();
    NEW.lease_expires_at := NULL;
    IF NEW.notify_kind IS NOT NULL THEN
      INSERT INTO jobs (id, project_id, kind, queue, subject_id, parent_id, dedupe_key, request_id,
                        trace_id, payload)
      VALUES (announced, NEW.project_id, NEW.notify_kind, NEW.notify_queue, NEW.parent_id, NEW.parent_id,
              'ended:' || NEW.id, NEW.request_id, NEW.trace_id,
              jsonb_build_object('job_id', NEW.id, 'kind_ended', NEW.kind, 'status', NEW.status,
                'subject_id', NEW.subject_id, 'parent_id', NEW.parent_id, 'result', NEW.result, 'error', NEW.error));
      INSERT INTO outbox (project_id, job_id, queue) VALUES (NEW.project_id, announced, NEW.notify_queue);
    END IF;
  END IF;
  RETURN NEW;
END $$
"""

RING_OUTBOX = """
CREATE FUNCTION ring_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_notify('uplift_outbox', ''); RETURN NULL; END $$
"""

# Everything below runs as uplift_system and sees every tenant: keep each to one purpose and return ids, never payloads.
SYSTEM_FUNCTIONS = {
    "authenticate_key(text)": """
CREATE FUNCTION authenticate_key(hash text)
RETURNS TABLE (key_id text, project_id text, project_name text, organisation_id text, scopes text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT k.id, p.id, p.name, p.organisation_id, k.scopes FROM api_keys k JOIN projects p ON p.id = k.project_id
  WHERE k.key_hash = hash AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
$$""",
    "take_outbox(integer)": """
CREATE FUNCTION take_outbox(most integer)
RETURNS TABLE (id bigint, project_id text, job_id text, queue text)
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  DELETE FROM outbox o USING (SELECT i.id FROM outbox i ORDER BY i.id LIMIT most FOR UPDATE SKIP LOCKED) picked
  WHERE o.id = picked.id RETURNING o.id, o.project_id, o.job_id, o.queue
$$""",
    "requeue_expired_jobs()": """
CREATE FUNCTION requeue_expired_jobs()
RETURNS TABLE (job_id text, became text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE lost jobs%ROWTYPE;
BEGIN
  FOR lost IN SELECT * FROM jobs j WHERE j.status = 'running' AND j.lease_expires_at < now()
              ORDER BY j.lease_expires_at LIMIT 500 FOR UPDATE SKIP LOCKED LOOP
    job_id := lost.id;
    IF lost.cancel_requested THEN
      became := 'cancelled';
      UPDATE jobs j SET status = 'cancelled' WHERE j.id = lost.id;
    ELSIF lost.pause_requested THEN
      became := 'paused';
      UPDATE jobs j SET status = 'paused', pause_requested = false, lease_expires_at = NULL WHERE j.id = lost.id;
    ELSIF lost.attempt >= lost.max_attempts THEN
      became := 'failed';
      UPDATE jobs j SET status = 'failed', error = jsonb_build_object('code', 'poisoned', 'message',
        format('The worker died or fell silent on all %s attempts; the job is not tried again. Look at the worker''s '
               'log around the last attempt, then create the job anew.', lost.attempt), 'param', NULL)
      WHERE j.id = lost.id;
    ELSE
      became := 'queued';
      UPDATE jobs j SET status = 'queued', lease_expires_at = NULL, worker = NULL, woken_at = now() WHERE j.id = lost.id;
      INSERT INTO outbox (project_id, job_id, queue) VALUES (lost.project_id, lost.id, lost.queue);
    END IF;
    RETURN NEXT;
  END LOOP;
END $$""",
    "unclaimed_jobs(double precision)": """
CREATE FUNCTION unclaimed_jobs(older_seconds double precision)
RETURNS TABLE (queue text, waiting bigint, stale bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT j.queue, count(*),
    count(*) FILTER (WHERE j.woken_at < greatest(j.run_after, now() - make_interval(secs => older_seconds)))
  FROM jobs j WHERE j.status = 'queued' AND j.run_after <= now() GROUP BY j.queue
$$""",
    "wake_unclaimed_jobs(text, double precision)": """
CREATE FUNCTION wake_unclaimed_jobs(of_queue text, older_seconds double precision) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  WITH stale AS (
    SELECT j.id FROM jobs j WHERE j.queue = of_queue AND j.status = 'queued' AND j.run_after <= now()
      AND j.woken_at < greatest(j.run_after, now() - make_interval(secs => older_seconds))
    ORDER BY j.created_at LIMIT 1000 FOR UPDATE SKIP LOCKED),
  woken AS (UPDATE jobs j SET woken_at = now() FROM stale WHERE j.id = stale.id RETURNING j.id, j.project_id, j.queue),
  sent AS (INSERT INTO outbox (project_id, job_id, queue) SELECT w.project_id, w.id, w.queue FROM woken w RETURNING 1)
  SELECT count(*) FROM sent
$$""",
}


def upgrade() -> None:
    op.execute(ROLES)
    op.execute("GRANT USAGE ON SCHEMA public TO uplift_app, uplift_system")
    _tenants()
    _jobs()
    op.execute("GRANT CREATE ON SCHEMA public TO uplift_system")
    for signature, body in SYSTEM_FUNCTIONS.items():
        op.execute(body)
        op.execute(f"ALTER FUNCTION {signature} OWNER TO uplift_system")
        op.execute("SET LOCAL ROLE uplift_system")  # grants on it are now its owner's to give
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO uplift_app")
        op.execute("RESET ROLE")
    op.execute("REVOKE CREATE ON SCHEMA public FROM uplift_system")


def _created_at() -> sa.Column[object]:
    return sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now())


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)


def _tenants() -> None:
    op.create_table(
        "organisations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        _created_at(),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("organisation_id", sa.Text, sa.ForeignKey("organisations.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        _created_at(),
        sa.UniqueConstraint("organisation_id", "name"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key_hash", sa.Text, nullable=False, unique=True),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("revoked_at", sa.TIMESTAMP(timezone=True)),
        _created_at(),
    )
    protect(op, "projects", column="id", grants="SELECT")
    protect(op, "api_keys", grants="SELECT, INSERT, UPDATE")
    op.execute("ALTER TABLE organisations ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE organisations FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant ON organisations FOR SELECT "
        f"USING (id = (SELECT p.organisation_id FROM projects p WHERE p.id = {TENANT}))"
    )
    op.execute("GRANT SELECT ON organisations TO uplift_app")
    open_to_system(op, "projects", "SELECT")
    open_to_system(op, "api_keys", "SELECT")
    # founding a tenant is the schema owner's own act (bootstrap), so the owner may write what it cannot read as a tenant
    for table in ("organisations", "projects", "api_keys"):
        op.execute(f"CREATE POLICY founding ON {table} TO CURRENT_USER USING (true) WITH CHECK (true)")


def _jobs() -> None:
    op.execute("CREATE SEQUENCE job_fences")
    op.execute("GRANT USAGE ON SEQUENCE job_fences TO uplift_app")
    moment = sa.TIMESTAMP(timezone=True)
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("payload", JSONB, nullable=False),
        sa.Column("subject_id", sa.Text),
        sa.Column("parent_id", sa.Text),
        sa.Column("status", sa.Text, nullable=False, server_default="queued"),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("max_attempts", sa.Integer, nullable=False, server_default="3"),
        sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("worker", sa.Text),
        sa.Column("lease_expires_at", moment),
        sa.Column("run_after", moment, nullable=False, server_default=sa.func.now()),
        sa.Column("woken_at", moment, nullable=False, server_default=sa.func.now()),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("pause_requested", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("progress", JSONB),
        sa.Column("result", JSONB),
        sa.Column("error", JSONB),
        sa.Column("notify_kind", sa.Text),
        sa.Column("notify_queue", sa.Text),
        sa.Column("dedupe_key", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("trace_id", sa.Text),
        _created_at(),
        sa.Column("started_at", moment),
        sa.Column("finished_at", moment),
        sa.UniqueConstraint("project_id", "dedupe_key"),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')", name="jobs_status"
        ),
        sa.CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", name="jobs_lease"),
    )
    op.create_index("jobs_by_project", "jobs", ["project_id", "created_at", "id"])
    op.create_index("jobs_by_parent", "jobs", ["parent_id"])
    op.execute("CREATE INDEX jobs_queued ON jobs (queue, created_at) WHERE status = 'queued'")
    op.execute("CREATE INDEX jobs_leased ON jobs (lease_expires_at) WHERE status = 'running'")
    op.create_table(
        "job_events",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        _project(),
        sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        _created_at(),
        sa.Column("level", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", JSONB),
        sa.Column("step", sa.Integer),
    )
    op.create_index("job_events_by_job", "job_events", ["job_id", "id"])
    op.execute("CREATE UNIQUE INDEX job_events_step ON job_events (job_id, type, step) WHERE step IS NOT NULL")
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        _project(),
        sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        _created_at(),
    )
    protect(op, "jobs")
    protect(op, "job_events", grants="SELECT, INSERT")
    protect(op, "outbox", grants="SELECT, INSERT")
    open_to_system(op, "jobs", "SELECT, INSERT, UPDATE")
    open_to_system(op, "outbox", "SELECT, INSERT, UPDATE, DELETE")
    op.execute(GUARD_TERMINAL)
    op.execute(ANNOUNCE_END)
    op.execute(RING_OUTBOX)
    op.execute("CREATE TRIGGER guard BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION guard_terminal_job()")
    # fires after "guard" (triggers run in the order of their names)
    op.execute("CREATE TRIGGER job_ends BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION announce_job_end()")
    op.execute("CREATE TRIGGER ring AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION ring_outbox()")


def downgrade() -> None:
    for signature in SYSTEM_FUNCTIONS:
        op.execute("SET LOCAL ROLE uplift_system")
        op.execute(f"DROP FUNCTION {signature}")
        op.execute("RESET ROLE")
    op.execute("DROP POLICY tenant ON organisations")  # it looks into projects
    for table in ("outbox", "job_events", "jobs", "api_keys", "projects", "organisations"):
        op.drop_table(table)
    for function in ("ring_outbox", "announce_job_end", "guard_terminal_job"):
        op.execute(f"DROP FUNCTION {function}()")
    op.execute("DROP SEQUENCE job_fences")
    op.execute("REVOKE USAGE ON SCHEMA public FROM uplift_app, uplift_system")
