"""Asking live requests from an event loop: no thread between the request, Redis and the answer."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any, cast

import redis

from shared.errors import Unavailable
from shared.ids import new_id
from shared.live.posting import POST, UNREACHABLE, check_posted, posting
from shared.live.protocol import CANCELLATIONS, KEEP_SECONDS, STREAM_EXPIRY_SECONDS, Call, Reply, entries, read_reply
from shared.loop_redis import loop_redis
from shared.settings import Settings
from shared.telemetry import logger

log = logger(__name__)
_Inbox = asyncio.Queue[tuple[str, dict[str, Any]]]


class AsyncLiveClient:
    """`LiveClient` for one event loop, on a reply stream of its own; made and closed within that loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis = loop_redis(settings.redis_url, socket_keepalive=True, health_check_interval=10)
        self._post = self._redis.register_script(POST)
        self._stream = f"uplift:replies:{new_id('client-')}"
        self._waiting: dict[str, _Inbox] = {}
        self._reader: asyncio.Task[None] | None = None
        self._goodbyes: set[asyncio.Task[None]] = set()
        self._closed = False

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
        inbox: _Inbox = asyncio.Queue()
        self._waiting[call.id] = inbox
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_replies())
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
        self._closed = True
        if self._reader is not None:
            self._reader.cancel()  # a read that ends in this moment swallows it and finds the flag
            await asyncio.wait([self._reader])
            try:
                await self._redis.delete(self._stream)
            except (redis.RedisError, OSError) as error:
                log.warning("reply stream not deleted; it expires by itself", error=str(error))
        await self._redis.aclose()

    async def _send(self, call: Call, body: dict[str, Any]) -> None:
        post = asyncio.ensure_future(self._post(**posting(call, body, self._stream, self._settings)))
        try:
            # redis-py loses a connection, or the cancellation, if it is cancelled while it connects
            waiting = await asyncio.shield(post)
        except (redis.RedisError, OSError) as error:
            raise Unavailable(UNREACHABLE) from error
        check_posted(call, int(waiting), self._settings)

    async def _send_cancel(self, request_id: str) -> None:
        try:
            await self._redis.xadd(CANCELLATIONS, {"r": request_id}, maxlen=10_000, approximate=True)
        except (redis.RedisError, OSError) as error:
            log.warning("cancellation not sent; the worker's deadline ends the request", error=str(error))

    async def _read_replies(self) -> None:
        last, kept = "0-0", 0.0
        while not self._closed:
            try:
                found = cast(Any, await self._redis.xread({self._stream: last}, count=1000, block=500))
                if found and time.monotonic() - kept > KEEP_SECONDS:
                    await self._redis.expire(self._stream, STREAM_EXPIRY_SECONDS)
                    kept = time.monotonic()
            except (redis.RedisError, OSError) as error:
                log.warning("reply stream not readable", error=str(error))
                kept = 0.0  # a wiped Redis starts the stream anew; its ids, times of its clock, go on
                await asyncio.sleep(0.5)
                continue
            for entry_id, fields in entries(found):
                last = entry_id
                request_id, what, data = read_reply(fields)
                inbox = self._waiting.get(request_id)
                if inbox is not None:
                    inbox.put_nowait((what, data))
