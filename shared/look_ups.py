"""Connections for single reads from an event loop."""

import asyncio
from collections import deque, namedtuple
from collections.abc import Callable
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult

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
        self._idle: deque[_Line] = deque()
        self._most_idle = idle
        self._places = asyncio.BoundedSemaphore(most)
        self._closed = False

    async def row(self, statement: str, parameters: tuple[str, ...]) -> Any:
        """The first row (fields by name) of a statement with parameters $1, $2, … or None. Raises psycopg.Error."""
        async with self._places:
            try:
                line = self._idle.pop()
            except IndexError:
                line = await self._connect()
            else:
                try:
                    return await self._ask(line, statement, parameters)
                except Unanswered:
                    raise
                except psycopg.OperationalError:
                    if not line.is_broken:
                        raise
                # Postgres was restarted: the others are dead too
                self._drop_idle()
                line = await self._connect()
            return await self._ask(line, statement, parameters)

    def close(self) -> None:
        """End the idle connections; those in use end after their read."""
        self._closed = True
        self._drop_idle()

    async def _ask(self, line: "_Line", statement: str, parameters: tuple[str, ...]) -> Any:
        try:
            found = await line.row(statement, parameters)
        except BaseException:
            line.end()
            raise
        if self._closed or len(self._idle) >= self._most_idle:
            line.end()
        else:
            self._idle.append(line)
        return found

    async def _connect(self) -> "_Line":
        return _Line(await psycopg.AsyncConnection.connect(self._address, autocommit=True, connect_timeout=10))

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().end()


class _Line:
    """One connection, spoken to by libpq's own calls: where the processor's caches are cold, as after every answer of a
    model, psycopg's cursor takes longer than Postgres does (docs/decisions/0009)."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._types = Transformer(connection)
        self._rows: dict[str, tuple[bytes, Any]] = {}
        """Every prepared statement's name here, and the class of its rows."""
        self._loop = asyncio.get_running_loop()
        self._socket = self._pgconn.socket
        self._answer: asyncio.Future[PGresult] | None = None
        self._result: PGresult | None = None
        """The answer while Postgres has not said that it is the whole of it."""
        self._loop.add_reader(self._socket, self._hear)

    @property
    def is_broken(self) -> bool:
        return self._pgconn.status == ConnStatus.BAD

    async def row(self, statement: str, parameters: tuple[str, ...]) -> Any:
        name, kind = self._rows.get(statement) or await self._prepare(statement)
        values = [parameter.encode() for parameter in parameters]
        result = await self._exchange(lambda: self._pgconn.send_query_prepared(name, values))
        if result.ntuples == 0:
            return None
        self._types.set_pgresult(result)
        return self._types.load_row(0, kind._make)

    def end(self) -> None:
        """Waits for nothing, so that it can be done without the loop, or in a cancelled task."""
        self._stop_hearing()
        self._connection.pgconn.finish()

    async def _prepare(self, statement: str) -> tuple[bytes, Any]:
        name = f"look_up_{len(self._rows)}".encode()
        await self._exchange(lambda: self._pgconn.send_prepare(name, statement.encode()))
        described = await self._exchange(lambda: self._pgconn.send_describe_prepared(name))
        fields = [(described.fname(index) or b"").decode() for index in range(described.nfields)]
        self._rows[statement] = name, namedtuple("Row", fields, rename=True)
        return self._rows[statement]

    async def _exchange(self, send: Callable[[], None]) -> PGresult:
        """The one result of what `send` asks. Raises psycopg.Error."""
        self._answer, self._result = self._loop.create_future(), None
        answer = self._answer
        patience = self._loop.call_later(_PATIENCE_SECONDS, self._lose_patience)
        try:
            send()
            while self._pgconn.flush():  # what is asked is shorter than any socket's buffer
                await asyncio.sleep(0.001)
            result = await answer
        finally:
            patience.cancel()
            self._answer = None
        if result.status == ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
        return result

    def _hear(self) -> None:
        """Something came: the answer, a part of it, or the server's goodbye."""
        answer = self._answer
        try:
            self._pgconn.consume_input()
            if answer is None or answer.done():
                return
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    assert self._result is not None, "libpq ended a query without a result"
                    answer.set_result(self._result)
                    return
                self._result = result
        except psycopg.Error as error:
            self._stop_hearing()  # a dead socket would be heard again and again
            if answer is not None and not answer.done():
                answer.set_exception(error)

    def _stop_hearing(self) -> None:
        if self._socket >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
        self._socket = -1

    def _lose_patience(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unanswered(f"Postgres did not answer within {_PATIENCE_SECONDS:g} s."))
