"""The one way to Postgres: transactions that carry their tenant, so that row-level security decides what is seen."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from shared.errors import Unavailable
from shared.look_ups import LookUps

_AFTER_COMMIT = "after commit"


class Base(DeclarativeBase):
    """Every table's base; JSON columns are jsonb, moments are timestamptz."""

    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy reads this class attribute)
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
    }


class TenantRow:
    """A row that belongs to a project; the migration puts it under forced row-level security."""

    project_id: Mapped[str] = mapped_column(sa.Text, nullable=False)


class Database:
    """A connection pool and its two kinds of transaction.

    ``prepare_threshold=None`` because psycopg's automatic prepared statements keep an old plan after a setting
    of the transaction changes, which made vector queries pick the wrong plan.
    """

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        if not url:
            raise Unavailable(
                "DATABASE_URL is not set. Start the platform with `uplift up`, or set DATABASE_URL to a Postgres "
                "with pgvector."
            )
        self.url = url
        self.engine = sa.create_engine(
            url,
            pool_size=pool_size,
            max_overflow=2 * pool_size,
            pool_pre_ping=True,
            pool_recycle=1800,
            connect_args={"prepare_threshold": None, "connect_timeout": 10},
        )
        self._look_ups = LookUps(url, idle=pool_size, most=3 * pool_size)

    @contextmanager
    def transaction(self, project_id: str, *, idle_seconds: float | None = None) -> Iterator[Session]:
        """One transaction that sees `project_id`'s rows and no other's; commits at the end, rolls back on error.

        What `after_commit` was given runs at the end, unless it rolled back. With `idle_seconds` the server ends it,
        and its locks with it, when it waits that long between two statements: for locks that must not outlive a
        process that stopped; math.inf lets it wait beyond the server's own limit, for one that holds none.
        """
        settings, values = "set_config('app.project_id', :project, true)", {"project": project_id}
        if idle_seconds is not None:
            settings += ", set_config('idle_in_transaction_session_timeout', :idle, true)"
            values["idle"] = "0" if math.isinf(idle_seconds) else f"{max(1, round(idle_seconds * 1000))}ms"
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.execute(sa.text(f"SELECT {settings}"), values)
            yield session
        for step in session.info.get(_AFTER_COMMIT, ()):
            step(self)

    @contextmanager
    def system_transaction(self) -> Iterator[Session]:
        """One transaction without a tenant: it sees no tenant's row, only what the system functions return."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    async def look_up(self, statement: str, *parameters: str) -> Any:
        """The one row of a system function of $1, $2, … (fields by name), or None: one read, no transaction.

        For an event loop, and for what every request needs: it takes fewer trips and less code than a transaction, and
        no thread. At most as many run at once as the pool has connections, the others wait. Raises psycopg.Error.
        """
        return await self._look_ups.row(statement, parameters)

    def close_look_ups(self) -> None:
        """The part of `close` that is done in the event loop's own thread, while one runs."""
        self._look_ups.close()

    def close(self) -> None:
        self.close_look_ups()
        self.engine.dispose()


def after_commit(session: Session, step: Callable[[Database], None]) -> None:
    """Have `step` run once the session's transaction has committed, and never if it does not.

    For what no rollback takes back. It is too late to refuse anything: `step` must not raise.
    """
    session.info.setdefault(_AFTER_COMMIT, []).append(step)
