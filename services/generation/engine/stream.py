"""One answer between the engine's thread and the thread that waits for it."""

import queue
import threading
from collections.abc import Callable, Iterator

from services.generation.answering import Delta, Finished


class Stream:
    """Deltas, then Finished, or the error that ended it."""

    def __init__(self, abandoned: Callable[[], bool]) -> None:
        self._pieces: queue.SimpleQueue[Delta | Finished | Exception] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._abandoned = abandoned

    def __iter__(self) -> Iterator[Delta | Finished]:
        while True:
            piece = self._pieces.get()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if isinstance(piece, Finished):
                return

    def cancel(self) -> None:
        """Free the slot at the next token."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set() or self._abandoned()

    def put(self, piece: Delta | Finished | Exception) -> None:
        self._pieces.put(piece)
