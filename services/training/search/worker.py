"""The search worker: celery -A services.training.search.worker worker --pool threads; nothing is trained in it."""

from services.training.handlers import RELEASE_HANDLERS
from services.training.search.handlers import JOB_HANDLERS
from services.training.search.study import OptunaStudies
from services.training.search.wiring import SearchWiring
from services.training.settings import TrainingSettings
from shared.task_queue import make_worker_app


def make_wiring() -> SearchWiring:
    settings = TrainingSettings()
    wiring = SearchWiring.from_settings(settings, studies=OptunaStudies(settings.database_url))
    assert isinstance(wiring, SearchWiring)
    return wiring


app = make_worker_app("search", ["search"], make_wiring, JOB_HANDLERS | RELEASE_HANDLERS)
