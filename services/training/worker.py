"""The training worker: `celery -A services.training.worker worker --pool threads`; torch runs in its children only."""

from services.training.adapters.handlers import JOB_HANDLERS as ADAPTER_HANDLERS
from services.training.export.handlers import JOB_HANDLERS as EXPORT_HANDLERS
from services.training.handlers import JOB_HANDLERS
from services.training.settings import TrainingSettings
from shared.task_queue import make_worker_app
from shared.wiring import Wiring


def make_wiring() -> Wiring:
    return Wiring.from_settings(TrainingSettings())


app = make_worker_app("training", ["training"], make_wiring, JOB_HANDLERS | ADAPTER_HANDLERS | EXPORT_HANDLERS)
