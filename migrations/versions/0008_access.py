"""Access: quotas and usage of projects, an append-only audit log, records of idempotent requests."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import open_to_system, protect

revision = "0008"
down_revision = "0006"

_MOMENT = sa.TIMESTAMP(timezone=True)
_SIGNATURE = "authenticate_key(text)"

AUTHENTICATE_BEFORE = """
CREATE FUNCTION authenticate_key(hash text)
RETURNS TABLE (key_id text, project_id text, project_name text, organisation_id text, scopes text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT k.id, p.id, p.name, p.organisation_id, k.scopes FROM api_keys k JOIN projects p ON p.id = k.project_id
  WHERE k.key_hash = hash AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
$$"""

# one round trip a request: who it is, and what of its project's limits the door needs to know
AUTHENTICATE = """
CREATE FUNCTION authenticate_key(hash text)
RETURNS TABLE (key_id text, project_id text, project_name text, organisation_id text, scopes text[],
               requests_per_minute bigint, tokens_per_minute bigint, tokens_per_month bigint, tokens_this_month bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT k.id, p.id, p.name, p.organisation_id, k.scopes,
         q.requests_per_minute, q.tokens_per_minute, q.tokens_per_month, coalesce(u.tokens, 0)
  FROM api_keys k JOIN projects p ON p.id = k.project_id
  LEFT JOIN project_quotas q ON q.project_id = p.id
  LEFT JOIN project_usage u ON u.project_id = p.id AND u.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
  WHERE k.key_hash = hash AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
$$"""

REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'UP002';
END $$
"""


def upgrade() -> None:
    _quotas()
    _audit_log()
    _idempotency()
    op.execute("CREATE INDEX jobs_alive ON jobs (project_id, kind) WHERE status IN ('queued', 'running', 'paused')")
    _replace_authentication(AUTHENTICATE)


def downgrade() -> None:
    _replace_authentication(AUTHENTICATE_BEFORE)
    op.execute("DROP INDEX jobs_alive")
    for table in ("idempotency_records", "audit_log", "project_usage", "project_quotas"):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change()")


def _project(*, primary_key: bool = False) -> sa.Column[str]:
    owner = sa.ForeignKey("projects.id", ondelete="CASCADE")
    return sa.Column("project_id", sa.Text, owner, nullable=False, primary_key=primary_key)


def _quotas() -> None:
    limits = ("requests_per_minute", "tokens_per_minute", "tokens_per_month", "stored_bytes")
    limits += ("training_jobs_per_day", "training_jobs_at_once")
    # NULL means the server's default, 0 means no limit
    op.create_table(
        "project_quotas",
        _project(primary_key=True),
        *(sa.Column(name, sa.BigInteger, sa.CheckConstraint(f"{name} >= 0")) for name in limits),
    )
    op.create_table(
        "project_usage",
        _project(primary_key=True),
        sa.Column("month", sa.Date, primary_key=True),
        sa.Column("tokens", sa.BigInteger, nullable=False),
    )
    # a project reads its quotas; raising them is the operator's act, as the schema's owner
    protect(op, "project_quotas", grants="SELECT")
    op.execute("CREATE POLICY operating ON project_quotas TO CURRENT_USER USING (true) WITH CHECK (true)")
    protect(op, "project_usage", grants="SELECT, INSERT, UPDATE")
    open_to_system(op, "project_quotas", "SELECT")
    open_to_system(op, "project_usage", "SELECT")


def _audit_log() -> None:
    # no foreign key: the log outlives what it tells of
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project_id", sa.Text, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("object_id", sa.Text),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
    )
    op.create_index("audit_log_by_project", "audit_log", ["project_id", "created_at", "id"])
    protect(op, "audit_log", grants="SELECT, INSERT")
    op.execute(REFUSE_CHANGE)
    # the owner has every grant: the triggers bind it too
    for name, events, scope in (("no_change", "UPDATE OR DELETE", "ROW"), ("no_truncate", "TRUNCATE", "STATEMENT")):
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {events} ON audit_log FOR EACH {scope} EXECUTE FUNCTION refuse_change()"
        )


def _idempotency() -> None:
    op.create_table(
        "idempotency_records",
        _project(primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),  # a digest of the path and the client's key
        sa.Column("claim", sa.Text, nullable=False),  # who is at work on it
        sa.Column("request_sha256", sa.Text),
        sa.Column("status", sa.Integer),  # NULL while the first request is in flight
        sa.Column("headers", JSONB),
        sa.Column("body", sa.LargeBinary),
        sa.Column("created_at", _MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", _MOMENT, nullable=False),
    )
    op.create_index("idempotency_records_expiry", "idempotency_records", ["project_id", "expires_at"])
    protect(op, "idempotency_records")


def _replace_authentication(body: str) -> None:
    op.execute("GRANT CREATE ON SCHEMA public TO uplift_system")
    op.execute("SET LOCAL ROLE uplift_system")
    op.execute(f"DROP FUNCTION {_SIGNATURE}")
    op.execute(body)
    op.execute(f"REVOKE ALL ON FUNCTION {_SIGNATURE} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {_SIGNATURE} TO uplift_app")
    op.execute("RESET ROLE")
    op.execute("REVOKE CREATE ON SCHEMA public FROM uplift_system")
