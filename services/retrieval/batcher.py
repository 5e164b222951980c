"""Coalesces embedding requests of many threads into small batches for the one thread that runs the model."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from services.retrieval.embedder import Embedder, Vectors

_SLICE = 4096
"""Characters per run of the model (64 questions or eight passages): a query waits for one slice of an index job."""
_OLDEST = 1024
"""Characters of a slice for whoever waits longest, so that no stream of queries starves an index job."""


@dataclass
class _Ask:
    """Texts of one caller; sorted by length, so that a slice pads little."""

    texts: list[str]
    done: list[Vectors] = field(default_factory=list)
    taken: int = 0
    future: "Future[Vectors]" = field(default_factory=Future)

    @property
    def left(self) -> int:
        return len(self.texts) - self.taken


class BatchingEmbedder:
    """An Embedder for many threads: one thread loads the model and runs it, the smallest requests first."""

    def __init__(self, name: str, load: Callable[[], Embedder]) -> None:
        self.name = name
        self._load = load
        self._asks: queue.SimpleQueue[_Ask | None] = queue.SimpleQueue()
        self._model: Future[Embedder] = Future()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    @property
    def dimensions(self) -> int:
        return self._loaded().dimensions

    @property
    def most_tokens(self) -> int:
        return self._loaded().most_tokens

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Counted in the caller's thread: the tokenizer is thread-safe and needs no model."""
        return self._loaded().count_tokens(texts)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(N, dimensions) float32 unit vectors."""
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        self._start()
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        ask = _Ask([texts[index] for index in order])
        self._asks.put(ask)
        found = np.empty_like(ask.future.result())
        found[order] = ask.future.result()
        return found

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        if self._thread is not None:
            self._asks.put(None)
            self._thread.join(timeout=10)

    def _loaded(self) -> Embedder:
        self._start()
        return self._model.result()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="embedder", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            model = self._load()
        # every caller gets the reason that the model could not be loaded, now and later
        except Exception as error:  # noqa: BLE001
            self._model.set_exception(error)
            while (ask := self._asks.get()) is not None:
                ask.future.set_exception(error)
            return
        self._model.set_result(model)
        waiting: list[_Ask] = []
        open_ = True
        while open_ or waiting:
            open_ = self._receive(waiting, block=open_ and not waiting) and open_
            self._answer(model, take_slice(waiting))
            waiting = [ask for ask in waiting if ask.left and not ask.future.done()]

    def _receive(self, waiting: list[_Ask], *, block: bool) -> bool:
        """Move what has arrived to `waiting`; False when nothing will follow."""
        try:
            while True:
                ask = self._asks.get(block)
                if ask is None:
                    return False
                waiting.append(ask)
                block = False
        except queue.Empty:
            return True

    def _answer(self, model: Embedder, parts: Sequence[tuple[_Ask, list[str]]]) -> None:
        if not parts:
            return
        try:
            vectors = model.embed([text for _, texts in parts for text in texts])
        # a text that the model cannot take fails its own caller, not the others nor the thread that serves them
        except Exception as error:  # noqa: BLE001
            if len(parts) == 1:
                parts[0][0].future.set_exception(error)
                return
            for part in parts:
                self._answer(model, [part])
            return
        bounds = np.cumsum([len(texts) for _, texts in parts])[:-1]
        for (ask, _), own in zip(parts, np.split(vectors, bounds), strict=True):
            ask.done.append(own)
            if sum(map(len, ask.done)) == len(ask.texts):
                ask.future.set_result(np.concatenate(ask.done))


def take_slice(waiting: Sequence[_Ask]) -> list[tuple[_Ask, list[str]]]:
    """The next texts to run: some of the oldest request's, then the smallest requests first; never none."""
    if not waiting:
        return []
    before = [ask.taken for ask in waiting]
    room = _SLICE - _OLDEST + _take(waiting[0], _OLDEST)
    for ask in sorted(waiting, key=lambda ask: ask.left):
        room = _take(ask, room)
    return [
        (ask, ask.texts[begin : ask.taken]) for ask, begin in zip(waiting, before, strict=True) if ask.taken > begin
    ]


def _take(ask: _Ask, room: int) -> int:
    """Take texts while there is room, the last one whole; answers the room left."""
    while ask.left and room > 0:
        room -= len(ask.texts[ask.taken]) + 1
        ask.taken += 1
    return room
