"""The data worker: imports and RAFT sets, from the queue `data`."""

from services.data.handlers import JOB_HANDLERS
from services.data.settings import DataSettings
from shared.task_queue import make_worker_app
from shared.wiring import Wiring

app = make_worker_app("data", ["data"], lambda: Wiring.from_settings(DataSettings()), JOB_HANDLERS)
