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
"""A read of one row that takes longer, connecting included, counts as unanswered: its database hangs."""
_LOOK_SECONDS = 0.5
"""Who waits so long looks at the socket without being told to: uvloop tells nobody of a socket that the other side has
reset, and after a stall it runs its timers before it reads."""
_LAST_WORDS = {"FATAL", "PANIC"}
"""How severe an error is after which the server ends the connection."""


class Unanswered(psycopg.OperationalError):
    """Postgres did not answer in time; it is not asked again."""

    def __init__(self) -> None:
        super().__init__(f"Postgres did not answer within {_PATIENCE_SECONDS:g} s.")


class ConnectionLost(psycopg.OperationalError):
    """The connection ended before the answer was there; on another one the read may be done again."""


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
            deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
            if self._idle:
                try:
                    return await self._ask(self._idle.pop(), statement, parameters, deadline)
                except ConnectionLost:
                    self._drop_idle()  # Postgres was restarted: the others are dead too
            return await self._ask(await self._connect(deadline), statement, parameters, deadline)

    def close(self) -> None:
        """End the idle connections; those in use end after their read. While the loop runs, only its thread may."""
        self._closed = True
        self._drop_idle()

    async def _ask(self, line: "_Line", statement: str, parameters: tuple[str, ...], deadline: float) -> Any:
        try:
            found = await line.row(statement, parameters, deadline)
        except BaseException as error:
            lost = line.is_lost_by(error)  # asked before its end, after which every connection looks lost
            line.end()
            if lost:
                raise ConnectionLost(f"The connection to Postgres was lost: {error}") from error
            raise
        if self._closed or len(self._idle) >= self._most_idle:
            line.end()
        else:
            self._idle.append(line)
        return found

    async def _connect(self, deadline: float) -> "_Line":
        try:
            async with asyncio.timeout_at(deadline):
                return _Line(await psycopg.AsyncConnection.connect(self._address, autocommit=True))
        except TimeoutError as error:
            raise Unanswered from error

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
        self._patience: asyncio.TimerHandle
        self._result: PGresult | None = None
        """The answer while Postgres has not said that it is the whole of it."""
        self._loop.add_reader(self._socket, self._hear)

    def is_lost_by(self, error: BaseException) -> bool:
        """Whether what was raised here is the connection's end, as the socket tells or the server's last words."""
        if isinstance(error, Unanswered) or not isinstance(error, psycopg.OperationalError):
            return False
        return self._pgconn.status == ConnStatus.BAD or error.diag.severity_nonlocalized in _LAST_WORDS

    async def row(self, statement: str, parameters: tuple[str, ...], deadline: float) -> Any:
        name, kind = self._rows.get(statement) or await self._prepare(statement, deadline)
        values = [parameter.encode() for parameter in parameters]
        result = await self._exchange(lambda: self._pgconn.send_query_prepared(name, values), deadline)
        if result.ntuples == 0:
            return None
        self._types.set_pgresult(result)
        return self._types.load_row(0, kind._make)

    def end(self) -> None:
        """Waits for nothing, so that it can be done without the loop, or in a cancelled task."""
        self._stop_hearing()
        self._connection.pgconn.finish()

    async def _prepare(self, statement: str, deadline: float) -> tuple[bytes, Any]:
        name = f"look_up_{len(self._rows)}".encode()
        await self._exchange(lambda: self._pgconn.send_prepare(name, statement.encode()), deadline)
        described = await self._exchange(lambda: self._pgconn.send_describe_prepared(name), deadline)
        fields = [(described.fname(index) or b"").decode() for index in range(described.nfields)]
        self._rows[statement] = name, namedtuple("Row", fields, rename=True)
        return self._rows[statement]

    async def _exchange(self, send: Callable[[], None], deadline: float) -> PGresult:
        """The one result of what `send` asks. Raises psycopg.Error."""
        self._answer, self._result = self._loop.create_future(), None
        answer = self._answer
        self._look_later(deadline)
        try:
            send()
            while self._pgconn.flush():  # what is asked is shorter than any socket's buffer
                await asyncio.sleep(0.001)
            result = await answer
        finally:
            self._patience.cancel()
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
                    if self._result is None:
                        raise psycopg.InternalError("libpq ended a query without a result")
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

    def _look_later(self, deadline: float) -> None:
        moment = min(self._loop.time() + _LOOK_SECONDS, deadline)
        self._patience = self._loop.call_at(moment, self._look, deadline)

    def _look(self, deadline: float) -> None:
        self._hear()
        if self._answer is None or self._answer.done():
            return
        if self._loop.time() < deadline:
            self._look_later(deadline)
        else:
            self._answer.set_exception(Unanswered())
