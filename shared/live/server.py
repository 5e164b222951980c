"""Answering live requests in a worker: admit, handle, reply, and hear cancellations of what is in flight."""

import threading
import time
from collections.abc import Callable
from typing import Any, cast

import redis
import structlog

from shared.errors import InvalidInput, UpliftError
from shared.live.protocol import CANCELLATIONS, SIGN_SECONDS, entries
from shared.live.replies import ReplyWriter
from shared.telemetry import logger

log = logger(__name__)
_ADMITS_AFTER_SECONDS = 0.5
_HEARS_EVERY_MS = 500
_LATE_SECONDS = 3.0
"""A request taken with less than this left to its asker's patience is told so at once."""


class InFlight:
    """One request that is being answered, and what its asker has heard of it."""

    def __init__(self, replies: ReplyWriter, message: dict[str, Any]) -> None:
        self._replies = replies
        self._to: tuple[str, str] = message["reply_to"], message["id"]
        self._admitted_at = self._told_at = time.monotonic()
        self._admission_is_told = self._ended = False
        self._lock = threading.Lock()
        self.cancelled = threading.Event()

    def tell_admission(self, after_seconds: float = 0.0) -> None:
        """Let the asker know that it no longer waits for a worker: once, before the first piece of a longer answer.

        An answer that comes at once says so itself, and needs no entry of its own.
        """
        with self._lock:
            if not self._admission_is_told and time.monotonic() - self._admitted_at >= after_seconds:
                self._admission_is_told = True
                self._say_admitted()

    def give_sign(self) -> None:
        """Let the asker of a long answer know, every SIGN_SECONDS, that its worker is alive."""
        with self._lock:
            if self._admission_is_told and not self._ended and time.monotonic() - self._told_at >= SIGN_SECONDS:
                self._say_admitted()

    def reply(self, data: dict[str, Any]) -> None:
        self.tell_admission()
        self._replies.give(*self._to, "delta", data)

    def end(self, kind: str, data: dict[str, Any]) -> None:
        with self._lock:
            self._admission_is_told = self._ended = True  # too late now
        self._replies.give_last(*self._to, kind, data)

    def _say_admitted(self) -> None:
        self._told_at = time.monotonic()
        self._replies.give(*self._to, "admitted", {})


class LiveContext:
    """One admitted request as its handler sees it."""

    def __init__(self, wiring: Any, message: dict[str, Any], flight: InFlight) -> None:
        self.wiring = wiring
        self.project_id: str = message["project_id"]
        self.request_id: str = message["id"]
        self.batch: bool = message["queue"].endswith(".batch")
        self._deadline = time.monotonic() + float(message["timeout_s"])
        self._flight = flight

    def emit(self, data: dict[str, Any]) -> None:
        """Send a delta."""
        self._flight.reply(data)

    def cancelled(self) -> bool:
        return self._flight.cancelled.is_set()

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
        self._running: dict[str, InFlight] = {}
        self._gone: dict[str, float] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        if handlers:
            threading.Thread(target=self._hear_cancellations, name="live-cancellations", daemon=True).start()

    def answer(self, message: dict[str, Any]) -> None:
        """Handle one message; its error, whatever it is, goes back to the asker."""
        request_id = message["id"]
        flight = InFlight(self._replies, message)
        if time.time() > message["admit_before"] or not self._is_taken(request_id, flight):
            log.info("live request dropped: its client is gone", live_id=request_id)
            return
        if message["admit_before"] - time.time() < _LATE_SECONDS:
            flight.tell_admission()
        try:
            ids = {"request_id": request_id.split(".")[0], "trace_id": message["trace_id"]}
            with structlog.contextvars.bound_contextvars(**ids):
                flight.end("done", self._handle(LiveContext(self._wiring, message, flight), message))
        except UpliftError as error:
            flight.end("error", error.as_record())
        # the process's outer edge: a defect must reach the asker as an error, and the log whole
        except Exception as error:
            log.exception("live handler raised", kind=message["kind"])
            flight.end(
                "error",
                {"code": "internal_error", "status": 500, "message": f"{type(error).__name__}: {error}"},
            )
        finally:
            with self._lock:
                self._running.pop(request_id, None)

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            for flight in self._running.values():
                flight.cancelled.set()
        self._replies.close()

    def _handle(self, context: LiveContext, message: dict[str, Any]) -> dict[str, Any]:
        handler = self._handlers.get(message["kind"])
        if handler is None:
            raise InvalidInput(f"This worker answers no {message['kind']!r}; it answers {sorted(self._handlers)}.")
        return handler(context, message["body"])

    def _is_taken(self, request_id: str, flight: InFlight) -> bool:
        """Have it hear cancellations from now on, unless it was cancelled already."""
        with self._lock:
            if request_id not in self._gone:
                self._running[request_id] = flight
            return request_id not in self._gone

    def _hear_cancellations(self) -> None:
        last = ""
        while not self._closed.is_set():
            try:
                last = last or self._newest_cancellation()
                found = cast(Any, self._redis.xread({CANCELLATIONS: last}, count=1000, block=_HEARS_EVERY_MS))
            except (redis.RedisError, ValueError, OSError) as error:
                if self._closed.is_set():
                    return
                log.warning("cancellations not readable", error=str(error))
                self._closed.wait(0.5)
                continue
            for entry_id, fields in entries(found):
                last = entry_id
                self._cancel(fields[b"r"].decode())
            self._tell_admissions()

    def _newest_cancellation(self) -> str:
        """The id after which to read: named once, since what comes between two reads from "$" would be missed."""
        newest = cast(Any, self._redis.xrevrange(CANCELLATIONS, count=1))
        return str(newest[0][0].decode()) if newest else "0-0"

    def _tell_admissions(self) -> None:
        with self._lock:
            running = list(self._running.values())
        for flight in running:
            flight.tell_admission(_ADMITS_AFTER_SECONDS)
            flight.give_sign()

    def _cancel(self, request_id: str) -> None:
        horizon = time.monotonic() - 900
        with self._lock:
            self._gone = {key: at for key, at in self._gone.items() if at > horizon}
            self._gone[request_id] = time.monotonic()
            if request_id in self._running:
                self._running[request_id].cancelled.set()
