"""A small honest embedder: a text's vector counts its words, hashed into dimensions; equal words, equal direction."""

import json
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool

from services.retrieval.embedder import Vectors
from services.retrieval.handlers import LIVE_HANDLERS
from shared.live import LiveContext
from shared.wiring import Wiring


class WordEmbedder:
    """Counts what it is asked; `before` is called ahead of every batch."""

    name, dimensions, most_tokens = "words", 64, 40

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.embedded = 0
        self.before = before

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.before()
        self.embedded += len(texts)
        found = np.full((len(texts), self.dimensions), 1e-3, dtype=np.float32)
        for row, text in zip(found, texts, strict=True):
            for word in text.lower().split():
                row[zlib.crc32(word.strip(".,?!").encode()) % self.dimensions] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def describe(self, folder: Path) -> None:
        """Write what an embedder's folder says of how much it reads."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": self.most_tokens}))
        (folder / "tokenizer.json").write_text(json.dumps({"post_processor": None}))


class _Unheard:
    """A request in flight whose asker waits for its end alone."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def reply(self, data: dict[str, Any]) -> None: ...


class InProcessAsking:
    """Stands in for the event loop's client of live requests: a thread answers with the real handlers."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring

    async def ask(
        self, queue: str, kind: str, project_id: str, body: dict[str, Any], *, timeout_s: float, **_ids: str
    ) -> dict[str, Any]:
        message = {"project_id": project_id, "id": "req", "queue": queue, "timeout_s": timeout_s}
        context = LiveContext(self.wiring, message, _Unheard())
        return await run_in_threadpool(LIVE_HANDLERS[kind], context, body)
