"""The worker's pen: replies of all requests in flight, written by one thread, as many at once as have come together."""

import json
import threading
from collections import deque
from typing import Any

import redis

from shared.live.protocol import STREAM_LENGTH
from shared.telemetry import logger

log = logger(__name__)
_MOST_AT_ONCE = 256
_END_SECONDS = 5.0
_PATIENCE_SECONDS = 5.0
"""A Redis that takes longer for a reply counts as away: it holds up the replies of all requests."""
Line = tuple[str, dict[str, str]]
"""A reply stream and one entry for it."""


class ReplyWriter:
    """Writes replies in the order in which they are given.

    A thread that computes must not stand still for every token, and under load one trip to Redis carries the tokens
    of a whole step: so a thread of our own writes. Whoever gives the last reply and finds nothing waiting writes it
    at once, which is sooner than waking that thread.
    """

    def __init__(self, redis_url: str) -> None:
        # a bare connection: what redis-py's client does besides for each command is cold in the processor's caches
        # after a step of the model
        pool = redis.ConnectionPool.from_url(redis_url, socket_keepalive=True, socket_timeout=_PATIENCE_SECONDS)
        self._connection: Any = pool.make_connection()
        self._lines: deque[Line] = deque()
        self._changed = threading.Condition()
        self._writing = False
        self._ended = False
        self._thread = threading.Thread(target=self._write, name="live-replies-out", daemon=True)
        self._thread.start()

    def give(self, stream: str, request_id: str, kind: str, data: dict[str, Any]) -> None:
        """Have one reply written; never waits for Redis."""
        line = _line(stream, request_id, kind, data)
        with self._changed:
            self._lines.append(line)
            self._changed.notify()

    def give_last(self, stream: str, request_id: str, kind: str, data: dict[str, Any]) -> None:
        """Write one reply, from a thread that has nothing else to do."""
        line = _line(stream, request_id, kind, data)
        with self._changed:
            if self._lines or self._writing:
                self._lines.append(line)
                self._changed.notify()
                return
            self._writing = True
        self._send_taken([line])

    def close(self) -> None:
        """Write what was given, then end."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(_END_SECONDS)

    def _write(self) -> None:
        while lines := self._take():
            self._send_taken(lines)
        self._connection.disconnect()

    def _take(self) -> list[Line]:
        """The next lines, once there are some and nobody else writes; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._writing and (self._lines or self._ended))
            lines = [self._lines.popleft() for _ in range(min(len(self._lines), _MOST_AT_ONCE))]
            self._writing = bool(lines)
        return lines

    def _send_taken(self, lines: list[Line]) -> None:
        try:
            self._send(lines)
        finally:
            with self._changed:
                self._writing = False
                if self._lines or self._ended:
                    self._changed.notify()

    def _send(self, lines: list[Line]) -> None:
        connection = self._connection
        try:
            self._end_if_stale()
            connection.send_packed_command(connection.pack_commands(map(_command, lines)), check_health=False)
            for _ in lines:
                connection.read_response()
        except (redis.RedisError, OSError) as error:
            connection.disconnect()  # it may still hold answers to what was sent; the next reply opens it again
            log.warning("replies lost with Redis; their clients time out", count=len(lines), error=str(error))

    def _end_if_stale(self) -> None:
        """A connection that the server has closed meanwhile says so when asked, and must not cost a reply."""
        try:
            if self._connection.is_connected and self._connection.can_read():
                self._connection.disconnect()
        except (redis.RedisError, OSError):
            self._connection.disconnect()


def _line(stream: str, request_id: str, kind: str, data: dict[str, Any]) -> Line:
    return stream, {"r": request_id, "k": kind, "d": json.dumps(data)}


def _command(line: Line) -> tuple[str | int, ...]:
    stream, fields = line
    return ("XADD", stream, "MAXLEN", "~", STREAM_LENGTH, "*", *(word for field in fields.items() for word in field))
