"""`/models/{model}/export`: a model as a file to take along."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from services.training.export import handlers
from services.training.export.schemas import CreateExport
from services.training.settings import TrainingSettings
from shared.answers import answering
from shared.jobs.answers import JobObject
from shared.jobs.routes import job_object
from shared.web import Caller, caller, wiring
from shared.wiring import Wiring

router = APIRouter(prefix="/models", tags=["models"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]


@router.post("/{model:path}/export", responses=answering(JobObject))
def export_model(model: str, body: CreateExport, who: Who, parts: Parts) -> dict[str, Any]:
    """Write a fine-tuned model as a file that other programs load; answers the job that does it.

    The model is an adapter, a checkpoint, a wholly fine-tuned model, or a variant or release that has one of these
    (its prompt and its retrieval are not part of weights, and stay here). Watch the job at `/v1/jobs/{id}`; its
    `result` has `file_id`, whose bytes are at `/v1/files/{file_id}/content`, and of merged models
    `largest_logit_difference`: how far the written model's logits are from the adapter's beside its base.
    """
    with parts.database.transaction(who.project_id) as session:
        return job_object(handlers.create_export(session, who.project_id, model, body, TrainingSettings()))
