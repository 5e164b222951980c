"""The retrieval worker: `celery -A services.retrieval.worker worker --pool threads`."""

import threading

from services.retrieval.batcher import BatchingEmbedder
from services.retrieval.embedder import Embedder
from services.retrieval.errors import EmbedderNotFound, NotAnEmbedder
from services.retrieval.handlers import JOB_HANDLERS, LIVE_HANDLERS
from services.retrieval.settings import RetrievalSettings
from services.retrieval.wiring import RetrievalWiring
from shared.compute import ComputeShare
from shared.task_queue import make_worker_app


class Embedders:
    """The embedding models of this worker, each loaded at its first use."""

    def __init__(self, settings: RetrievalSettings) -> None:
        self._settings = settings
        self._loaded: dict[str, BatchingEmbedder] = {}
        self._lock = threading.Lock()

    def __call__(self, name: str) -> Embedder:
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._make(name)
            return self._loaded[name]

    def _make(self, name: str) -> BatchingEmbedder:
        models = self._settings.models_dir
        known = (path for path in models.iterdir() if path.name[0] != ".") if models.is_dir() else ()
        folder = next((path for path in known if path.name == name), models)  # a label, never a path
        if not (folder / "modules.json").exists():
            if (folder / "config.json").exists():
                raise NotAnEmbedder.of(name)
            raise EmbedderNotFound(
                f"There is no embedder {name!r} here. `uplift models list` shows them.", param="model"
            )

        def load() -> Embedder:
            # torch is imported by the first request, so that the worker is ready at once
            from services.retrieval.embedding.sentence_encoder import SentenceEncoder

            return SentenceEncoder(folder, lambda: ComputeShare(self._settings.home, "embedding"))

        return BatchingEmbedder(name, load)


def make_wiring() -> RetrievalWiring:
    settings = RetrievalSettings()
    wiring = RetrievalWiring.from_settings(settings, embedder=Embedders(settings))
    assert isinstance(wiring, RetrievalWiring)
    return wiring


app = make_worker_app(
    "retrieval", ["retrieval.interactive", "retrieval.batch"], make_wiring, JOB_HANDLERS, LIVE_HANDLERS
)
