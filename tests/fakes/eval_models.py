"""A real worker that stands in for generation and retrieval when evals run: it keeps their contracts, loads no model.

What a model says follows from its id and from the last message: `echo` repeats it, `score` says the number that the
message ends with, `label` its last word, `garbage` something that is no verdict. A message with "unanswerable" is
refused, one with "gated" is answered once the file `gate-<project>` is in the home; a model `missing` is not here.
Every chat request leaves a line (project, model, message) in the home's file `asked`, so that a test can count them.
"""

import threading
import time
from typing import Any

from shared.errors import InvalidInput, NotFound
from shared.live import LiveContext
from shared.live.vectors import packed
from shared.settings import Settings
from shared.task_queue import make_worker_app
from shared.wiring import Wiring
from tests.fakes.word_embedder import WordEmbedder

_SETTINGS = Settings()
_LOCK = threading.Lock()


class ModelNotFound(NotFound):
    code = "model_not_found"


def chat(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    model, words = str(body["model"]), str(body["messages"][-1]["content"])
    with _LOCK, (_SETTINGS.home / "asked").open("a") as asked:
        asked.write(f"{context.project_id}\t{model}\t{words}\n")
    if model == "missing":
        raise ModelNotFound("There is no model 'missing' here.", param="model")
    if "unanswerable" in words:
        raise InvalidInput("The prompt is too long.", param="messages")
    while "gated" in words and not (_SETTINGS.home / f"gate-{context.project_id}").exists():
        if context.cancelled():
            raise InvalidInput("Given up.")
        time.sleep(0.02)
    last = words.split()[-1] if words.split() else ""
    text = {"score": last, "label": f'"{last}"', "garbage": "I cannot say."}.get(model, words)
    used = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    timings = {"queue_ms": 0.0, "prefill_ms": 1.0, "total_ms": 2.0}
    return {"model": model, "text": text, "finish_reason": "stop", "usage": used, "citations": [], "timings": timings}


def embed(_context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    if any(len(text) > 1000 for text in body["input"]):
        raise InvalidInput("Input 0 has too many tokens.", param="input")
    return packed(WordEmbedder().embed(body["input"])) | {"prompt_tokens": 4}


app = make_worker_app(
    "eval-models",
    ["generation.batch", "generation.interactive", "retrieval.batch", "retrieval.interactive"],
    lambda: Wiring.from_settings(Settings()),
    {},
    {"generation.chat": chat, "retrieval.embed": embed},
)
