"""The one way to Postgres: transactions that carry their tenant, so that row-level security decides what is seen."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.rows import namedtuple_row
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from shared.errors import Unavailable


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
        self._lookups = _LookUps(url, idle=pool_size, most=3 * pool_size)

    @contextmanager
    def transaction(self, project_id: str) -> Iterator[Session]:
        """One transaction that sees `project_id`'s rows and no other's; commits at the end, rolls back on error."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.execute(sa.text("SELECT set_config('app.project_id', :project, true)"), {"project": project_id})
            yield session

    @contextmanager
    def system_transaction(self) -> Iterator[Session]:
        """One transaction without a tenant: it sees no tenant's row, only what the system functions return."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def look_up(self, statement: str, *parameters: Any) -> Any:
        """The one row of a system function (fields by name), or None: a single read without a transaction around it.

        It takes fewer trips and less code than a transaction, for what every request needs. At most as many run at once
        as the pool has connections, the others wait. Raises psycopg.Error.
        """
        return self._lookups.row(statement, parameters)

    def close(self) -> None:
        self._lookups.close()
        self.engine.dispose()


class _LookUps:
    """Connections for single reads. None is tried before its use: a read that finds one dead is done again."""

    def __init__(self, url: str, *, idle: int, most: int) -> None:
        """`idle` connections are kept between reads; `most` reads run at once, as many as the pool may grow to."""
        self._address = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._idle: deque[psycopg.Connection[Any]] = deque()
        self._most_idle = idle
        self._places = threading.BoundedSemaphore(most)
        self._closed = False

    def row(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        with self._places:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
            else:
                try:
                    return self._ask(connection, statement, parameters)
                except psycopg.OperationalError:
                    if not connection.broken:
                        raise
                # Postgres was restarted: the others are dead too
                self._drop_idle()
                connection = self._connect()
            return self._ask(connection, statement, parameters)

    def close(self) -> None:
        self._closed = True
        self._drop_idle()

    def _ask(self, connection: psycopg.Connection[Any], statement: str, parameters: tuple[Any, ...]) -> Any:
        try:
            found = connection.execute(statement.encode(), parameters).fetchone()
        except BaseException:
            connection.close()
            raise
        if self._closed or len(self._idle) >= self._most_idle:
            connection.close()
        else:
            self._idle.append(connection)
        return found

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            self._address, autocommit=True, prepare_threshold=None, connect_timeout=10, row_factory=namedtuple_row
        )

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()
