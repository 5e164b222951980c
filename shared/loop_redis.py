"""Redis for an event loop: one connection on which the commands of many tasks follow each other without waiting.

redis-py's asyncio client takes 0.3 to 0.6 ms a command where the processor's caches are cold, as they are after every
answer that a model has computed; this takes half of it (docs/decisions/0009). The protocol is hiredis', the URL and the
errors are redis-py's.
"""

import asyncio
import hashlib
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import hiredis
import redis
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import NoScriptError

Argument = str | bytes | int | float
_LAST_LOOK_SECONDS = 0.001


@dataclass(frozen=True)
class Script:
    """A Lua script and the digest by which the server knows it once it has run."""

    text: str
    sha1: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha1", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


class LoopRedis:
    """Connects at the first command, and again at the first one after the connection was lost.

    A command that was on its way when the connection broke is not repeated: the server may have done it. A task that is
    cancelled while it waits leaves the connection whole.
    """

    def __init__(self, url: str, *, patience: float) -> None:
        """`patience` is what connecting may take, and then a command, in seconds; after it the connection is given up,
        since the answers behind the missing one would come no sooner."""
        self._address = _Address.of(url)
        self._patience = patience
        self._line: _Line | None = None
        self._connecting: asyncio.Task[_Line] | None = None

    async def call(self, *command: Argument) -> Any:
        """The server's answer; texts are bytes, a missing value is None.

        Raises redis.ResponseError for what the server refuses, redis.TimeoutError, redis.ConnectionError or OSError.
        """
        line = self._line
        if line is None or line.is_lost:
            line = await self._connected()
        answer = await line.ask(command, self._patience)
        if isinstance(answer, hiredis.ReplyError):
            raise _refusal(answer)
        return answer

    async def run(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Any:
        """What the script answers; its text is sent only to a server that does not know it yet."""
        try:
            return await self.call("EVALSHA", script.sha1, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self.call("EVAL", script.text, len(keys), *keys, *arguments)

    async def aclose(self) -> None:
        """End the connection; who still waits for an answer gets a redis.ConnectionError."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._line is not None:
            self._line.abort(redis.ConnectionError("The connection to Redis was closed here."))

    async def _connected(self) -> "_Line":
        """One attempt for all who wait; whoever is cancelled meanwhile leaves it to the others."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._settle)
        attempt = self._connecting
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            if attempt.cancelled():
                raise redis.ConnectionError("The connection to Redis was closed here.") from None
            raise

    async def _connect(self) -> "_Line":
        loop, found = asyncio.get_running_loop(), self._address
        try:
            async with asyncio.timeout(self._patience):
                if found.path:
                    _, line = await loop.create_unix_connection(_Line, found.path)
                else:
                    _, line = await loop.create_connection(_Line, found.host, found.port, ssl=found.tls)
                try:
                    for command in found.greeting:
                        await line.greet(command, self._patience)
                except BaseException:
                    line.abort(redis.ConnectionError("The connection to Redis was not completed."))
                    raise
        except TimeoutError as error:
            raise redis.TimeoutError(f"Redis let nobody in within {self._patience:g} s.") from error
        self._line = line
        return line

    def _settle(self, attempt: "asyncio.Task[_Line]") -> None:
        self._connecting = None
        if not attempt.cancelled():
            attempt.exception()  # those who waited were told; there may be none left


@dataclass(frozen=True)
class _Address:
    """Where a redis://, rediss:// or unix:// URL leads, and what is said there first."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None
    greeting: tuple[tuple[Argument, ...], ...]

    @classmethod
    def of(cls, url: str) -> "_Address":
        told: dict[str, Any] = {**parse_url(url)}
        found: Any = told.pop("connection_class", Connection)(
            **told
        )  # it knows how to read the options; it never connects
        names = [] if found.username is None else [found.username]
        greeting: list[tuple[Argument, ...]] = [("AUTH", *names, found.password)] if found.password else []
        greeting += [("SELECT", int(found.db))] if found.db else []
        if isinstance(found, UnixDomainSocketConnection):
            return cls("", 0, found.path, None, tuple(greeting))
        tls = found.ssl_context.get() if isinstance(found, SSLConnection) else None
        return cls(found.host, int(found.port), "", tls, tuple(greeting))


class _Line(asyncio.Protocol):
    """One connection: answers come in the order of the questions."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.is_lost = False

    async def ask(self, command: tuple[Argument, ...], patience: float) -> Any:
        """The answer; one of the server's own errors is an answer, too."""
        if self._transport is None or self.is_lost:
            raise redis.ConnectionError("The connection to Redis was lost.")
        # packed first: who cannot be asked must not wait in line, where others' answers would come to them
        packed = hiredis.pack_command(command)  # type: ignore[arg-type] # its stub knows tuples of one only
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(answer)
        self._transport.write(packed)
        # a timer and no `asyncio.timeout`: that is eight calls more, for every command
        timer = self._loop.call_later(patience, self._lose_patience, answer, patience)
        try:
            return await answer
        finally:
            timer.cancel()

    async def greet(self, command: tuple[Argument, ...], patience: float) -> None:
        answer = await self.ask(command, patience)
        if isinstance(answer, hiredis.ReplyError):
            raise _refusal(answer)

    def abort(self, error: redis.RedisError) -> None:
        """Give up the connection, and with `error` all who wait."""
        self._lose(error)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        found = transport.get_extra_info("socket")
        if found is not None and found.family != socket.AF_UNIX:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not False:
                waiting = self._waiting.popleft()
                if not waiting.done():  # whoever asked was cancelled meanwhile
                    waiting.set_result(answer)
        except (hiredis.ProtocolError, IndexError) as error:
            self.abort(redis.ConnectionError(f"What answers is no Redis: {error or 'it speaks unasked'}"))

    def connection_lost(self, error: Exception | None) -> None:
        self._lose(redis.ConnectionError(f"The connection to Redis was lost{f': {error}' if error else ''}."))

    def _lose_patience(self, answer: asyncio.Future[Any], seconds: float) -> None:
        # after a stall of the loop the answer may be here, unread: uvloop looks at timers before it reads
        if not answer.done():
            self._loop.call_later(_LAST_LOOK_SECONDS, self._give_up, answer, seconds)

    def _give_up(self, answer: asyncio.Future[Any], seconds: float) -> None:
        if not answer.done():
            self.abort(redis.TimeoutError(f"Redis did not answer within {seconds:g} s."))

    def _lose(self, error: Exception) -> None:
        self.is_lost = True
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(error)


def _refusal(answer: hiredis.ReplyError) -> redis.RedisError:
    text = str(answer)
    kinds = {"NOSCRIPT": NoScriptError, "WRONGPASS": redis.AuthenticationError, "NOAUTH": redis.AuthenticationError}
    return kinds.get(text.partition(" ")[0], redis.ResponseError)(text)
