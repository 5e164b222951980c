"""`/fine_tuning/jobs/{id}/diagnosis`, `/remedy` and `/learning_curve`: what went wrong, and what would help."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from services.training.answers import FineTuningJob
from services.training.doctor import handlers
from services.training.doctor.answers import DiagnosisObject, LearningCurve
from services.training.doctor.schemas import StartRemedy
from services.training.objects import job_object
from services.training.settings import TrainingSettings
from shared.answers import answering
from shared.web import Caller, caller, wiring
from shared.wiring import Wiring

router = APIRouter(prefix="/fine_tuning", tags=["training"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]


@router.get("/jobs/{job_id}/diagnosis", responses=answering(DiagnosisObject))
def show_diagnosis(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """What the run's curves and counts say of it: `healthy`, or findings with evidence and one remedy each.

    `verdict` is the weightiest finding's, `too_early` while the run goes on without one, `interrupted` where it
    was cancelled or failed, `not_validated` where it never validated; `not_judged` says what could not be looked at.
    `valid_loss` is the best of the run's validations, `general_ability` the loss on general questions before and after
    the run, by which forgetting is judged. `remedies` are the jobs that `remedy` started, with the same two measures;
    `found_again` says whether their own diagnosis has the verdict again, null until that can be told.
    """
    with parts.database.transaction(who.project_id) as session:
        return handlers.diagnosis_of(session, job_id)


@router.post("/jobs/{job_id}/remedy", responses=answering(FineTuningJob))
def start_remedy(job_id: str, body: StartRemedy, who: Who, parts: Parts) -> dict[str, Any]:
    """Train again on the same data with a finding's recipe difference; answers the new job."""
    with parts.database.transaction(who.project_id) as session:
        row, job = handlers.start_remedy(session, who.project_id, job_id, body.verdict, TrainingSettings())
        session.refresh(row)
        return job_object(row, job, who)


@router.post("/jobs/{job_id}/learning_curve", responses=answering(LearningCurve))
def start_learning_curve(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Train again on a quarter and on half of the examples, in as many steps; answers the two new jobs.

    When they are done, the diagnosis forecasts from the three sizes what twice the examples would bring.
    A job that leaves hyperparameters to `auto` has to have started first (`hyperparameters_not_chosen`).
    """
    with parts.database.transaction(who.project_id) as session:
        started = handlers.start_learning_curve(session, who.project_id, job_id, TrainingSettings())
        for row, _ in started:
            session.refresh(row)
        return {"object": "list", "data": [job_object(row, job, who) for row, job in started]}
