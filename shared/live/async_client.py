"""Asking live requests from an event loop: no thread between the request, Redis and the answer."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import redis

from shared.errors import Unavailable
from shared.ids import new_id
from shared.live.housekeeping import Housekeeping
from shared.live.posting import POST, UNREACHABLE, check_posted, posting
from shared.live.protocol import CANCELLATIONS, Call, Reply, WorkerSilent, raw_entries, read_reply
from shared.loop_redis import LoopRedis
from shared.settings import Settings
from shared.telemetry import logger

log = logger(__name__)
_PATIENCE_SECONDS = 5.0
_READS_EVERY_MS = 500
_Inbox = asyncio.Queue[tuple[str, dict[str, Any]]]


class AsyncLiveClient:
    """`LiveClient` for one event loop, on a reply stream of its own; made and closed within that loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis = LoopRedis(settings.redis_url, patience=_PATIENCE_SECONDS)
        self._reading = LoopRedis(settings.redis_url, patience=_PATIENCE_SECONDS)  # most of the time it waits for news
        self._stream = f"uplift:replies:{new_id('client-')}"
        self._waiting: dict[str, _Inbox] = {}
        self._reader: asyncio.Task[None] | None = None
        self._goodbyes: set[asyncio.Task[None]] = set()

    async def ask(
        self,
        queue_name: str,
        kind: str,
        project_id: str,
        body: dict[str, Any],
        *,
        timeout_s: float,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """The final answer's data; raises UpliftError with the worker's own status and code."""
        replies = self.stream(queue_name, kind, project_id, body, timeout_s=timeout_s, request_id=request_id)
        async with aclosing(replies):
            async for reply in replies:
                if reply.kind == "done":
                    return reply.data
        raise WorkerSilent("The answer ended without its last part.")

    async def stream(
        self,
        queue_name: str,
        kind: str,
        project_id: str,
        body: dict[str, Any],
        *,
        timeout_s: float,
        request_id: str | None = None,
    ) -> AsyncGenerator[Reply, None]:
        """Deltas, then one "done"; raises UpliftError with the worker's own status and code.

        Closing the generator early, or cancelling the task that waits for it, cancels the request at its worker.
        """
        call = Call(queue_name, kind, project_id, timeout_s, request_id)
        inbox = _Inbox()
        self._waiting[call.id] = inbox
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read_replies())
            self._reader.add_done_callback(_tell_of_defect)
        finished = False
        try:
            await self._send(call, body)
            while not finished:
                try:
                    async with asyncio.timeout(call.patience()):  # cheaper than wait_for, which makes a task
                        what, data = await inbox.get()
                except TimeoutError:
                    raise call.silence() from None
                reply = call.hear(what, data)
                finished = what in {"done", "error"}
                if reply is not None:
                    yield reply
        finally:
            self._waiting.pop(call.id, None)
            if not finished:  # whoever is cancelled must not wait here: a task says goodbye
                goodbye = asyncio.create_task(self._send_cancel(call.id))
                self._goodbyes.add(goodbye)
                goodbye.add_done_callback(self._goodbyes.discard)

    async def close(self) -> None:
        """Say what goodbyes are left and end; who still waits for an answer hears nothing more."""
        if self._goodbyes:
            await asyncio.wait(self._goodbyes, timeout=1)
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
            try:
                await self._redis.call("DEL", self._stream)
            except (redis.RedisError, OSError) as error:
                log.warning("reply stream not deleted; it expires by itself", error=str(error))
        for one in (self._redis, self._reading):
            await one.aclose()

    async def _send(self, call: Call, body: dict[str, Any]) -> None:
        try:
            waiting = await self._redis.run(POST, *posting(call, body, self._stream, self._settings))
        except (redis.RedisError, OSError) as error:
            raise Unavailable(UNREACHABLE) from error
        check_posted(call, int(waiting), self._settings)

    async def _send_cancel(self, request_id: str) -> None:
        try:
            await self._redis.call("XADD", CANCELLATIONS, "MAXLEN", "~", 10_000, "*", "r", request_id)
        except (redis.RedisError, OSError) as error:
            log.warning("cancellation not sent; the worker's deadline ends the request", error=str(error))

    async def _read_replies(self) -> None:
        last, house = b"0-0", Housekeeping(self._stream)
        while True:
            try:
                found = await self._reading.call(
                    *("XREAD", "COUNT", 1000, "BLOCK", _READS_EVERY_MS, "STREAMS", self._stream, last)
                )
                for command in house.due(last):
                    await self._redis.call(*command)
            except (redis.RedisError, OSError) as error:
                log.warning("reply stream not readable", error=str(error))
                house.forget()  # a wiped Redis starts the stream anew; its ids, times of its clock, go on
                await asyncio.sleep(0.5)
                continue
            for entry_id, fields in raw_entries(found):
                last = entry_id
                house.saw(fields)
                request_id, what, data = read_reply(fields)
                inbox = self._waiting.get(request_id)
                if inbox is not None:
                    inbox.put_nowait((what, data))


def _tell_of_defect(reader: "asyncio.Task[None]") -> None:
    """A reader that dies is replaced at the next request; those who wait time out, and the log says why."""
    if not reader.cancelled() and (error := reader.exception()) is not None:
        log.error("the reader of replies died", error=repr(error), exc_info=error)
