"""The evaluation worker: celery -A services.evaluation.worker worker --pool threads."""

from services.evaluation.batches.handlers import JOB_HANDLERS as BATCHES
from services.evaluation.evals.running import JOB_HANDLERS as EVALS
from services.evaluation.handlers import JOB_HANDLERS
from services.evaluation.settings import EvaluationSettings
from shared.task_queue import make_worker_app
from shared.wiring import Wiring


def _wiring() -> Wiring:
    return Wiring.from_settings(EvaluationSettings())


app = make_worker_app("evaluation", ["evaluation"], _wiring, JOB_HANDLERS | BATCHES | EVALS)
