"""Answering live requests in a worker: admit, handle, reply, and hear cancellations of what is in flight."""

import threading
import time
from collections.abc import Callable
from typing import Any, cast

import redis
import structlog

from shared.errors import InvalidInput, UpliftError
from shared.live.protocol import CANCELLATIONS, entries
from shared.live.replies import ReplyWriter
from shared.telemetry import logger

log = logger(__name__)


class LiveContext:
    """One admitted request as its handler sees it."""

    def __init__(self, wiring: Any, message: dict[str, Any], cancelled: threading.Event, reply: Any) -> None:
        self.wiring = wiring
        self.project_id: str = message["project_id"]
        self.request_id: str = message["id"]
        self.batch: bool = message["queue"].endswith(".batch")
        self._deadline = time.monotonic() + float(message["timeout_s"])
        self._cancelled = cancelled
        self._reply = reply

    def emit(self, data: dict[str, Any]) -> None:
        """Send a delta."""
        self._reply("delta", data)

    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def remaining(self) -> float:
        """Seconds left before the deadline, never negative."""
        return max(0.0, self._deadline - time.monotonic())


LiveHandler = Callable[[LiveContext, dict[str, Any]], dict[str, Any]]


class LiveServer:
    """The worker's side: admit, answer, and hear cancellations for every request in flight."""

    def __init__(self, wiring: Any, handlers: dict[str, LiveHandler]) -> None:
        self._wiring = wiring
        self._handlers = handlers
        self._redis = redis.Redis.from_url(wiring.settings.redis_url, socket_keepalive=True, health_check_interval=10)
        self._replies = ReplyWriter(wiring.settings.redis_url)
        self._running: dict[str, threading.Event] = {}
        self._gone: dict[str, float] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        if handlers:
            threading.Thread(target=self._hear_cancellations, name="live-cancellations", daemon=True).start()

    def answer(self, message: dict[str, Any]) -> None:
        """Handle one message; its error, whatever it is, goes back to the asker."""
        request_id, cancelled = message["id"], threading.Event()
        if time.time() > message["admit_before"] or self._is_gone(request_id):
            log.info("live request dropped: its client is gone", live_id=request_id)
            return

        def reply(kind: str, data: dict[str, Any]) -> None:
            self._replies.give(message["reply_to"], request_id, kind, data)

        with self._lock:
            self._running[request_id] = cancelled
        try:
            ids = {"request_id": request_id.split(".")[0], "trace_id": message["trace_id"]}
            with structlog.contextvars.bound_contextvars(**ids):
                reply("admitted", {})
                reply("done", self._handle(LiveContext(self._wiring, message, cancelled, reply), message))
        except UpliftError as error:
            reply("error", error.as_record())
        # the process's outer edge: a defect must reach the asker as an error, and the log whole
        except Exception as error:
            log.exception("live handler raised", kind=message["kind"])
            reply(
                "error",
                {"code": "internal_error", "status": 500, "message": f"{type(error).__name__}: {error}"},
            )
        finally:
            with self._lock:
                self._running.pop(request_id, None)

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            for event in self._running.values():
                event.set()
        self._replies.close()

    def _handle(self, context: LiveContext, message: dict[str, Any]) -> dict[str, Any]:
        handler = self._handlers.get(message["kind"])
        if handler is None:
            raise InvalidInput(f"This worker answers no {message['kind']!r}; it answers {sorted(self._handlers)}.")
        return handler(context, message["body"])

    def _is_gone(self, request_id: str) -> bool:
        with self._lock:
            return request_id in self._gone

    def _hear_cancellations(self) -> None:
        last = "$"
        while not self._closed.is_set():
            try:
                found = cast(Any, self._redis.xread({CANCELLATIONS: last}, count=1000, block=1000))
            except (redis.RedisError, ValueError, OSError) as error:
                if self._closed.is_set():
                    return
                log.warning("cancellations not readable", error=str(error))
                last = "$"
                self._closed.wait(0.5)
                continue
            for entry_id, fields in entries(found):
                last = entry_id
                self._cancel(fields[b"r"].decode())

    def _cancel(self, request_id: str) -> None:
        horizon = time.monotonic() - 900
        with self._lock:
            self._gone = {key: at for key, at in self._gone.items() if at > horizon}
            self._gone[request_id] = time.monotonic()
            if request_id in self._running:
                self._running[request_id].set()
