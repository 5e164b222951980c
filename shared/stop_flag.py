"""Telling a loop to stop from a signal handler."""

import os
import select
from contextlib import suppress


class StopFlag:
    """Set in a signal handler, waited for anywhere.

    `threading.Event` will not do: its `set` takes the lock that its `wait` holds for moments. A handler runs between
    two steps of the main thread; between those two it would wait for itself for ever. A byte in a pipe takes no lock.
    """

    def __init__(self) -> None:
        self._set = False
        self._ear, self._mouth = os.pipe()
        os.set_blocking(self._mouth, False)

    def set(self) -> None:
        self._set = True
        with suppress(BlockingIOError):  # full: it has been told often enough
            os.write(self._mouth, b"\0")

    def is_set(self) -> bool:
        return self._set

    def wait(self, seconds: float) -> bool:
        """Whether it is set, after so many seconds at most."""
        if not self._set:
            heard = select.poll()  # not `select`, which knows descriptors below 1024 only; one a thread
            heard.register(self._ear, select.POLLIN)
            heard.poll(seconds * 1000)  # nobody reads the byte: once set, it is set for all
        return self._set

    def close(self) -> None:
        """Give its two descriptors back; no handler may know it any more."""
        os.close(self._ear)
        os.close(self._mouth)
