"""The generation worker: `celery -A services.generation.worker worker --pool threads`."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

from services.generation.answering import GenerationEngine
from services.generation.errors import ModelNotFound
from services.generation.handlers import JOB_HANDLERS, LIVE_HANDLERS
from services.generation.local_models import base_model_folder
from services.generation.settings import GenerationSettings
from services.generation.wiring import GenerationWiring
from shared.compute import ComputeShare
from shared.task_queue import make_worker_app


class Engines:
    """The engines of this worker, one per base model, each loaded at its first use."""

    def __init__(self, settings: GenerationSettings) -> None:
        self._settings = settings
        self._running: OrderedDict[str, GenerationEngine] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, name: str) -> GenerationEngine:
        with self._lock:
            if name not in self._running:
                self._running[name] = self._load(name)
                while len(self._running) > self._settings.max_engines:
                    _, oldest = self._running.popitem(last=False)
                    threading.Thread(target=oldest.stop, daemon=True).start()
            self._running.move_to_end(name)
            return self._running[name]

    def _load(self, name: str) -> GenerationEngine:
        folder = base_model_folder(self._settings.models_dir, name)
        if folder is None:
            raise ModelNotFound(
                f"There is no base model {name!r} here. `uplift models pull` brings one.", param="model"
            )
        # torch is imported by the first request, so that the worker is ready at once
        from services.generation.engine import Engine

        engine = Engine(folder, share=self._share, max_batch=self._settings.max_batch)
        engine.start()
        return engine

    @contextlib.contextmanager
    def _share(self) -> Iterator[Callable[[], int]]:
        with ComputeShare(self._settings.home, "generation") as share:
            yield share.threads


def make_wiring() -> GenerationWiring:
    settings = GenerationSettings()
    wiring = GenerationWiring.from_settings(settings, engine=Engines(settings))
    assert isinstance(wiring, GenerationWiring)
    return wiring


app = make_worker_app(
    "generation", ["generation.interactive", "generation.batch"], make_wiring, JOB_HANDLERS, LIVE_HANDLERS
)
