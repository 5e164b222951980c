"""Row-level security for a tenant table: forced (the owner obeys too), one policy, grants for the application."""

from typing import Any

TENANT = "(SELECT nullif(current_setting('app.project_id', true), ''))"
"""A subselect is read once a query; the bare function would be called for every row that the query looks at."""


def protect(op: Any, table: str, *, column: str = "project_id", grants: str = "SELECT, INSERT, UPDATE, DELETE") -> None:
    """Let a transaction see and write only rows of the project it has set; with none set, zero rows."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON {table} USING ({column} = {TENANT}) WITH CHECK ({column} = {TENANT})")
    op.execute(f"GRANT {grants} ON {table} TO uplift_app")


def open_to_system(op: Any, table: str, grants: str) -> None:
    """Let the few SECURITY DEFINER functions (owned by uplift_system) see every tenant's rows of this table."""
    op.execute(f"CREATE POLICY system ON {table} TO uplift_system USING (true) WITH CHECK (true)")
    op.execute(f"GRANT {grants} ON {table} TO uplift_system")


def add_system_function(op: Any, signature: str, body: str) -> None:
    """Create a SECURITY DEFINER function that the application may call and that sees every tenant's rows."""
    op.execute("GRANT CREATE ON SCHEMA public TO uplift_system")
    op.execute(body)
    op.execute(f"ALTER FUNCTION {signature} OWNER TO uplift_system")
    op.execute("SET LOCAL ROLE uplift_system")  # grants on it are now its owner's to give
    op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO uplift_app")
    op.execute("RESET ROLE")
    op.execute("REVOKE CREATE ON SCHEMA public FROM uplift_system")


def drop_system_function(op: Any, signature: str) -> None:
    """Undo `add_system_function`."""
    op.execute("SET LOCAL ROLE uplift_system")
    op.execute(f"DROP FUNCTION {signature}")
    op.execute("RESET ROLE")
