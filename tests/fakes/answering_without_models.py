"""One worker with the real handlers of generation and retrieval and no model: chat echoes, embeddings count words.

A question "When allowed, …" is answered once the file `allowed` is in the home; one that says "slowly" is never done
until it is abandoned.
"""

import time
from typing import Any

from services.generation.answering import GenerationRequest
from services.generation.handlers import LIVE_HANDLERS as GENERATION
from services.generation.settings import GenerationSettings
from services.generation.wiring import GenerationWiring
from services.retrieval.errors import EmbedderNotFound
from services.retrieval.handlers import LIVE_HANDLERS as RETRIEVAL
from shared.task_queue import make_worker_app
from tests.fakes.generation_without_model import EchoEngine
from tests.fakes.word_embedder import WordEmbedder


class PatientEngine(EchoEngine):
    """Waits to be allowed, where the question says so."""

    def __init__(self, settings: GenerationSettings) -> None:
        super().__init__(settings)
        self._allowed = settings.home / "allowed"

    def submit(self, request: GenerationRequest) -> Any:
        if str(request.messages[-1]["content"]).startswith("When allowed"):
            while not self._allowed.exists() and not request.abandoned():
                time.sleep(0.05)
        return super().submit(request)


def embedder(name: str) -> WordEmbedder:
    if name != WordEmbedder.name:
        raise EmbedderNotFound(f"There is no embedder {name!r} here.", param="model")
    return WordEmbedder()


def make_wiring() -> Any:
    settings = GenerationSettings()
    wiring: Any = GenerationWiring.from_settings(settings, engine=lambda _name: PatientEngine(settings))
    wiring.embedder = embedder
    return wiring


app = make_worker_app(
    "answering-without-models", ["generation.batch", "retrieval.batch"], make_wiring, {}, GENERATION | RETRIEVAL
)
