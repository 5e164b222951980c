"""Quotas and use of a project, as an operator sets and sees them."""

import sqlalchemy as sa

from shared.database import Database


def grant(admin_database: Database, project_id: str, **limits: int) -> None:
    """Give the project quotas of its own."""
    columns, values = ", ".join(limits), ", ".join(f":{name}" for name in limits)
    granted = sa.text(f"INSERT INTO project_quotas (project_id, {columns}) VALUES (:project, {values})")
    with admin_database.system_transaction() as session:
        session.execute(granted, limits | {"project": project_id})


def used_tokens(database: Database, project_id: str) -> int:
    """What the project has used, in all months."""
    with database.transaction(project_id) as session:
        return int(session.scalar(sa.text("SELECT coalesce(sum(tokens), 0) FROM project_usage")) or 0)
