"""The generation worker: `celery -A services.generation.worker worker --pool threads`."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from services.generation.answering import GenerationEngine
from services.generation.engines import Engines
from services.generation.errors import ModelNotFound
from services.generation.handlers import JOB_HANDLERS, LIVE_HANDLERS
from services.generation.local_models import base_model_folder
from services.generation.settings import GenerationSettings
from services.generation.stored.handlers import JOB_HANDLERS as STORED
from services.generation.wiring import GenerationWiring
from shared.compute import ComputeShare
from shared.task_queue import make_worker_app
from shared.telemetry import logger

log = logger(__name__)


def make_wiring() -> GenerationWiring:
    settings = GenerationSettings()
    engines = Engines(lambda name: _load(settings, name), most=settings.max_engines)
    wiring = GenerationWiring.from_settings(settings, engine=engines)
    assert isinstance(wiring, GenerationWiring)
    return wiring


def _load(settings: GenerationSettings, name: str) -> GenerationEngine:
    # a fine-tuned model's folder comes from our own storage; ids of base models are never absolute paths
    folder = Path(name) if Path(name).is_absolute() else base_model_folder(settings.models_dir, name)
    if folder is None:
        raise ModelNotFound(f"There is no base model {name!r} here. `uplift models pull` brings one.", param="model")
    # torch is imported by the first request, so that the worker is ready at once
    from services.generation.engine import Engine

    @contextlib.contextmanager
    def share() -> Iterator[Callable[[], int]]:
        with ComputeShare(settings.home, "generation", fixed=settings.compute_threads) as own:
            yield own.threads

    engine = Engine(folder, share=share, died=_leave, max_batch=settings.max_batch)
    engine.start()
    return engine


def _leave() -> None:
    """A worker without its engine would fail every request: leave, so that the supervisor starts a whole one."""
    log.critical("the engine died; this worker leaves")
    os.kill(os.getpid(), signal.SIGTERM)


app = make_worker_app(
    "generation", ["generation.interactive", "generation.batch"], make_wiring, JOB_HANDLERS | STORED, LIVE_HANDLERS
)
