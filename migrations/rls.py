"""Row-level security for a tenant table: forced (the owner obeys too), one policy, grants for the application."""

from typing import Any

TENANT = "nullif(current_setting('app.project_id', true), '')"


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
