"""A search worker that stalls between Optuna's commit and ours: `celery -A tests.fakes.stalling_search_worker worker`.

It touches the file STALLED of the home when it has come so far, and waits to be killed.
"""

import threading
from collections.abc import Collection

from services.training.search.domain import Point, StudyPlan
from services.training.search.handlers import JOB_HANDLERS
from services.training.search.study import OptunaStudies, OptunaStudy
from services.training.search.wiring import SearchWiring
from services.training.settings import TrainingSettings
from shared.task_queue import make_worker_app

STALLED = "stalled"


class _StallingStudy(OptunaStudy):
    def ask(self, known: Collection[int]) -> Point:
        super().ask(known)
        (TrainingSettings().home / STALLED).touch()
        threading.Event().wait()
        raise AssertionError("unreachable")


class _StallingStudies(OptunaStudies):
    def open(self, plan: StudyPlan) -> OptunaStudy:
        real = super().open(plan)
        return _StallingStudy(real._study, plan)


def make_wiring() -> SearchWiring:
    settings = TrainingSettings()
    wiring = SearchWiring.from_settings(settings, studies=_StallingStudies(settings.database_url))
    assert isinstance(wiring, SearchWiring)
    return wiring


app = make_worker_app("search", ["search"], make_wiring, JOB_HANDLERS)
