"""Asking live requests from threads: one reply stream per process, demultiplexed to whoever waits."""

import contextvars
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import redis

from shared.errors import Unavailable, UpliftError
from shared.ids import new_id
from shared.live.housekeeping import Housekeeping
from shared.live.many import Ticking, Together, take_done
from shared.live.posting import POST, UNREACHABLE, check_posted, posting
from shared.live.protocol import (
    CANCELLATIONS,
    GIVEN_UP,
    Call,
    QueueFull,
    Reply,
    WorkerSilent,
    entries,
    read_reply,
)
from shared.settings import Settings
from shared.telemetry import logger

log = logger(__name__)


class LiveClient:
    """Asks questions and receives answers; one per process, safe for many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis = redis.Redis.from_url(settings.redis_url, socket_keepalive=True, health_check_interval=10)
        self._post = self._redis.register_script(POST.text)
        self._stream = f"uplift:replies:{new_id('client-')}"
        self._waiting: dict[str, Callable[[str, dict[str, Any]], None]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._reader: threading.Thread | None = None

    def ask(
        self,
        queue_name: str,
        kind: str,
        project_id: str,
        body: dict[str, Any],
        *,
        timeout_s: float,
        request_id: str | None = None,
        together: "Together | None" = None,
    ) -> dict[str, Any]:
        """The final answer's data; raises UpliftError with the worker's own status and code."""
        found = self.stream(
            queue_name, kind, project_id, body, timeout_s=timeout_s, request_id=request_id, together=together
        )
        for reply in found:
            if reply.kind == "done":
                return reply.data
        raise WorkerSilent("The answer ended without its last part.")

    def stream(
        self,
        queue_name: str,
        kind: str,
        project_id: str,
        body: dict[str, Any],
        *,
        timeout_s: float,
        request_id: str | None = None,
        together: "Together | None" = None,
    ) -> Iterator[Reply]:
        """Deltas, then one "done". Closing the iterator early cancels the request at its worker."""
        inbox: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        call = Call(queue_name, kind, project_id, timeout_s, request_id)
        self._register(call.id, lambda what, data: inbox.put((what, data)))
        finished = False
        try:
            if together is not None:
                together.join(call.id, lambda: inbox.put((GIVEN_UP, {})))
            self._send(call, body)
            while not finished:
                try:
                    what, data = inbox.get(timeout=call.patience())
                except queue.Empty:
                    raise call.silence() from None
                reply = call.hear(what, data)
                finished = what in {"done", "error"}
                if reply is not None:
                    yield reply
        finally:
            self._leave(call, finished)
            if together is not None:
                together.leave(call.id)

    def ask_many(
        self,
        queue_name: str,
        kind: str,
        project_id: str,
        bodies: Iterable[dict[str, Any]],
        *,
        concurrency: int,
        timeout_s: float,
        attempts: int = 3,
        name: Callable[[int], str | None] = lambda _index: None,
        tick: Callable[[], None] = lambda: None,
    ) -> Generator[tuple[int, dict[str, Any] | UpliftError], None, None]:
        """Ask many at once, `concurrency` in flight; yields (index, answer or error) as they complete.

        A full queue is waited for; a retryable error is asked again up to `attempts` times. `name` gives each its
        request id. `tick` is called about once a second; what it raises ends the asking. However the asking ends,
        what is still in flight is cancelled at its workers.
        """
        together = Together()

        def one(index: int, body: dict[str, Any]) -> dict[str, Any] | UpliftError:
            def ask() -> dict[str, Any]:
                return self.ask(
                    queue_name,
                    kind,
                    project_id,
                    body,
                    timeout_s=timeout_s,
                    request_id=name(index),
                    together=together,
                )

            return self._ask_patiently(ask, together, attempts)

        pending: dict[Future[dict[str, Any] | UpliftError], int] = {}
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="ask-many")
        ticking = Ticking(tick)
        try:
            for index, body in enumerate(bodies):
                # each thread speaks for the job that asks: its ids go along
                pending[pool.submit(contextvars.copy_context().run, one, index, body)] = index
                while len(pending) >= concurrency:
                    yield from take_done(pending, ticking)
            while pending:
                yield from take_done(pending, ticking)
        finally:
            together.give_up()
            pool.shutdown(wait=False, cancel_futures=True)

    def ping(self) -> None:
        """Raise redis.RedisError unless Redis answers."""
        self._redis.ping()

    def close(self) -> None:
        self._closed.set()
        if self._reader is not None:
            self._reader.join(timeout=3)
            try:
                self._redis.delete(self._stream)
            except redis.RedisError as error:
                log.warning("reply stream not deleted; it expires by itself", error=str(error))
        self._redis.close()

    def _ask_patiently(
        self, ask: Callable[[], dict[str, Any]], together: "Together", attempts: int
    ) -> dict[str, Any] | UpliftError:
        error: UpliftError = Unavailable("not asked yet")
        tries = 0
        while tries < attempts and not self._closed.is_set():
            try:
                return ask()
            except QueueFull as full:
                together.over.wait(full.retry_after)
                error = full
            except UpliftError as failed:
                error, tries = failed, tries + 1
                if not failed.may_pass:
                    return failed
                together.over.wait(0.2 * 2**tries)
        return error

    def _send(self, call: Call, body: dict[str, Any]) -> None:
        try:
            keys, arguments = posting(call, body, self._stream, self._settings)
            waiting = cast(Any, self._post(keys=keys, args=arguments))
        except (redis.RedisError, OSError) as error:
            raise Unavailable(UNREACHABLE) from error
        check_posted(call, int(waiting), self._settings)

    def _register(self, request_id: str, deliver: Callable[[str, dict[str, Any]], None]) -> None:
        with self._lock:
            self._waiting[request_id] = deliver
            if self._reader is None:
                self._reader = threading.Thread(target=self._read_replies, name="live-replies", daemon=True)
                self._reader.start()

    def _leave(self, call: Call, finished: bool) -> None:
        with self._lock:
            self._waiting.pop(call.id, None)
        if not finished:
            threading.Thread(target=self._send_cancel, args=(call.id,), daemon=True).start()

    def _send_cancel(self, request_id: str) -> None:
        try:
            self._redis.xadd(CANCELLATIONS, {"r": request_id}, maxlen=10_000, approximate=True)
        except (redis.RedisError, ValueError) as error:
            log.warning("cancellation not sent; the worker's deadline ends the request", error=str(error))

    def _read_replies(self) -> None:
        last, house = "0-0", Housekeeping(self._stream)
        while not self._closed.is_set():
            try:
                found = cast(Any, self._redis.xread({self._stream: last}, count=1000, block=500))
                for command in house.due(last):
                    cast(Any, self._redis).execute_command(*command)
            except (redis.RedisError, ValueError, OSError) as error:
                if self._closed.is_set():
                    return
                log.warning("reply stream not readable", error=str(error))
                house.forget()  # a wiped Redis starts the stream anew; its ids, times of its clock, go on
                self._closed.wait(0.5)
                continue
            for entry_id, fields in entries(found):
                last = entry_id
                house.saw(fields)
                self._deliver(fields)

    def _deliver(self, fields: dict[bytes, bytes]) -> None:
        request_id, what, data = read_reply(fields)
        with self._lock:
            deliver = self._waiting.get(request_id)
        if deliver is not None:
            deliver(what, data)
