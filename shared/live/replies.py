"""The worker's pen: replies of all requests in flight, written by one thread, as many at once as have come together."""

import json
import queue
import threading
from typing import Any, cast

import redis

from shared.live.protocol import STREAM_LENGTH
from shared.telemetry import logger

log = logger(__name__)
_MOST_AT_ONCE = 256
_END_SECONDS = 5.0
Line = tuple[str, dict[str, str]]
"""A reply stream and one entry for it."""


class ReplyWriter:
    """Writes replies in the order in which they are given; giving one never waits for Redis.

    A thread that computes must not stand still for every token, and under load one trip to Redis carries the tokens
    of a whole step.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(redis_url, socket_keepalive=True, health_check_interval=10)
        self._lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="live-replies-out", daemon=True)
        self._thread.start()

    def give(self, stream: str, request_id: str, kind: str, data: dict[str, Any]) -> None:
        """Have one reply written."""
        self._lines.put((stream, {"r": request_id, "k": kind, "d": json.dumps(data)}))

    def close(self) -> None:
        """Write what was given, then end."""
        self._lines.put(None)
        self._thread.join(_END_SECONDS)

    def _write(self) -> None:
        while (first := self._lines.get()) is not None:
            lines, ended = [first], False
            while len(lines) < _MOST_AT_ONCE and not self._lines.empty():
                line = self._lines.get()
                if line is None:
                    ended = True
                    break
                lines.append(line)
            self._send(lines)
            if ended:
                break
        self._redis.close()

    def _send(self, lines: list[Line]) -> None:
        try:
            if len(lines) == 1:  # a pipeline costs more than it saves
                _add(self._redis, lines[0])
                return
            with self._redis.pipeline(transaction=False) as pipeline:
                for line in lines:
                    _add(pipeline, line)
                pipeline.execute()
        except (redis.RedisError, OSError) as error:
            log.warning("replies lost with Redis; their clients time out", count=len(lines), error=str(error))


def _add(connection: Any, line: Line) -> None:
    stream, fields = line
    connection.xadd(stream, cast(Any, fields), maxlen=STREAM_LENGTH, approximate=True)
