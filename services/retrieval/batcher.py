"""Coalesces embedding requests of many threads into batches for the one thread that runs the model."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from services.retrieval.embedder import Embedder, Vectors

_MOST_TEXTS = 256


@dataclass
class _Ask:
    texts: list[str]
    future: "Future[Vectors]" = field(default_factory=Future)


class BatchingEmbedder:
    """An Embedder for many threads: the model is loaded and run by one thread, which takes what waits as one batch."""

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

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Counted in the caller's thread: the tokenizer is thread-safe and needs no model."""
        return self._loaded().count_tokens(texts)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(N, dimensions) float32 unit vectors."""
        self._start()
        ask = _Ask(list(texts))
        self._asks.put(ask)
        return ask.future.result()

    def close(self) -> None:
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
        while (ask := self._asks.get()) is not None:
            asks, ended = self._gather(ask)
            self._answer(model, asks)
            if ended:
                return

    def _gather(self, first: _Ask) -> tuple[list[_Ask], bool]:
        asks, size = [first], len(first.texts)
        while size < _MOST_TEXTS:
            try:
                ask = self._asks.get_nowait()
            except queue.Empty:
                break
            if ask is None:
                return asks, True
            asks.append(ask)
            size += len(ask.texts)
        return asks, False

    def _answer(self, model: Embedder, asks: list[_Ask]) -> None:
        try:
            vectors = model.embed([text for ask in asks for text in ask.texts])
        # a text that the model cannot take must fail its callers, not end the thread that serves all others
        except Exception as error:  # noqa: BLE001
            for ask in asks:
                ask.future.set_exception(error)
            return
        bounds = np.cumsum([len(ask.texts) for ask in asks])[:-1]
        for ask, own in zip(asks, np.split(vectors, bounds), strict=True):
            ask.future.set_result(own)
