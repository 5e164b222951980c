"""The choices of one request between the engine's thread and the thread that waits for it."""

import queue
import threading
from collections.abc import Callable, Iterator

from services.generation.answering import Delta, Finished


class Stream:
    """Deltas and one Finished of each choice, or the error that ended one of them."""

    def __init__(self, abandoned: Callable[[], bool], choices: int = 1) -> None:
        self._unfinished = choices
        self._pieces: queue.SimpleQueue[Delta | Finished | Exception] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._abandoned = abandoned

    def __iter__(self) -> Iterator[Delta | Finished]:
        while self._unfinished:
            piece = self._pieces.get()
            if isinstance(piece, Exception):
                self.cancel()  # the other choices have no reader any more
                raise piece
            self._unfinished -= isinstance(piece, Finished)
            yield piece

    def cancel(self) -> None:
        """Free the slots of all choices at the next token."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set() or self._abandoned()

    def put(self, piece: Delta | Finished | Exception) -> None:
        self._pieces.put(piece)
