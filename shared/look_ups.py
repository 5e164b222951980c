"""Connections for single reads from an event loop."""

import asyncio
from collections import deque
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.rows import namedtuple_row

_PATIENCE_SECONDS = 10.0
"""A read of one row that takes longer counts as unanswered: its database hangs."""


class Unanswered(psycopg.OperationalError):
    """Postgres took the question and did not answer in time; it is not asked again."""


class LookUps:
    """A pool without checks: no connection is tried before its use, a read that finds one dead is done again.

    Every connection prepares a statement once: such a read depends on no setting that a plan could outlive.
    """

    def __init__(self, url: str, *, idle: int, most: int) -> None:
        """`idle` connections are kept between reads; `most` reads run at once."""
        self._address = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._idle: deque[psycopg.AsyncConnection[Any]] = deque()
        self._most_idle = idle
        self._places = asyncio.BoundedSemaphore(most)
        self._closed = False

    async def row(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        """The statement's first row, or None. Raises psycopg.Error."""
        async with self._places:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = await self._connect()
            else:
                try:
                    return await self._ask(connection, statement, parameters)
                except Unanswered:
                    raise
                except psycopg.OperationalError:
                    if not connection.broken:
                        raise
                # Postgres was restarted: the others are dead too
                self._drop_idle()
                connection = await self._connect()
            return await self._ask(connection, statement, parameters)

    def close(self) -> None:
        """End the idle connections; those in use end after their read."""
        self._closed = True
        self._drop_idle()

    async def _ask(self, connection: psycopg.AsyncConnection[Any], statement: str, parameters: tuple[Any, ...]) -> Any:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                cursor = await connection.execute(statement.encode(), parameters, prepare=True)
                found = await cursor.fetchone()
        except TimeoutError as error:
            _end(connection)
            raise Unanswered(f"Postgres did not answer within {_PATIENCE_SECONDS:g} s.") from error
        except BaseException:
            _end(connection)
            raise
        if self._closed or len(self._idle) >= self._most_idle:
            _end(connection)
        else:
            self._idle.append(connection)
        return found

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            self._address, autocommit=True, connect_timeout=10, row_factory=namedtuple_row
        )

    def _drop_idle(self) -> None:
        while self._idle:
            _end(self._idle.pop())


def _end(connection: psycopg.AsyncConnection[Any]) -> None:
    connection.pgconn.finish()  # waits for nothing, so that it can be done without the loop, or in a cancelled task
