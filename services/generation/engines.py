"""The engines of one worker: one per base model or whole fine-tuned model, loaded at its first use, the least recently
used retired."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from services.generation.answering import GenerationEngine


class Engines:
    """Called with a model's name, gives its running engine. Loading one holds up nobody who uses another."""

    def __init__(self, load: Callable[[str], GenerationEngine], *, most: int) -> None:
        self._load, self._most = load, most
        self._known: OrderedDict[str, Future[GenerationEngine]] = OrderedDict()
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="engine-loader")

    def __call__(self, name: str) -> GenerationEngine:
        """Waits while it loads; raises what loading raised, and the next call tries again."""
        with self._lock:
            self._forget_failures()
            if name not in self._known:
                self._known[name] = self._loader.submit(self._load, name)
            self._known.move_to_end(name)
            found, surplus = self._known[name], self._surplus()
        for engine in surplus:
            engine.retire()
        return found.result()

    def _forget_failures(self) -> None:
        for name in [name for name, engine in self._known.items() if engine.done() and engine.exception()]:
            del self._known[name]

    def _surplus(self) -> list[GenerationEngine]:
        """Take out the least recently used beyond the limit; one that is still loading is left alone."""
        loaded = [name for name, engine in self._known.items() if engine.done()]
        extra = loaded[: max(0, len(self._known) - self._most)]
        return [self._known.pop(name).result() for name in extra]
