"""Asking many requests at once: giving them up together, and a tick while nothing comes."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from shared.errors import UpliftError
from shared.live.protocol import GivenUp

Answer = dict[str, Any] | UpliftError


class Together:
    """Requests that are asked together and can be given up together, each in its own thread."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._members: dict[str, Callable[[], None]] = {}
        self._lock = threading.Lock()

    def join(self, call_id: str, give_up: Callable[[], None]) -> None:
        """Raises GivenUp when it is too late."""
        with self._lock:
            if self.over.is_set():
                raise GivenUp("The answer is no longer wanted.")
            self._members[call_id] = give_up

    def leave(self, call_id: str) -> None:
        with self._lock:
            self._members.pop(call_id, None)

    def give_up(self) -> None:
        """Wake every thread that waits for an answer; each cancels its request at the worker."""
        with self._lock:
            self.over.set()
            for give_up in self._members.values():
                give_up()


class Ticking:
    """Calls `tick` when a second is over."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._next = time.monotonic() + 1.0

    def seconds_left(self) -> float:
        return max(0.0, self._next - time.monotonic())

    def if_due(self) -> None:
        if self.seconds_left() == 0.0:
            self._tick()
            self._next = time.monotonic() + 1.0


def take_done(pending: dict[Future[Answer], int], ticking: Ticking) -> Iterator[tuple[int, Answer]]:
    """Those that are answered, with their index; none when a second passes without an answer."""
    done, _ = wait(pending, timeout=ticking.seconds_left(), return_when=FIRST_COMPLETED)
    for future in done:
        yield pending.pop(future), future.result()
    ticking.if_due()
