"""`/fine_tuning/jobs` as OpenAI's client calls it."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from services.training import handlers, repository
from services.training.domain import hyperparameters_of, with_hyperparameters
from services.training.errors import FineTuningMethodUnsupported
from services.training.recipe import Recipe
from services.training.schemas import CreateJob, Hyperparameters
from services.training.settings import TrainingSettings
from services.training.tables import CheckpointRow, TrainingJob
from shared.clock import now, unix
from shared.errors import InvalidInput
from shared.jobs import control
from shared.jobs.tables import Job, JobEvent
from shared.web import Caller, caller, page, wiring
from shared.wiring import Wiring

router = APIRouter(prefix="/fine_tuning/jobs", tags=["training"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("")
def create_job(body: CreateJob, who: Who, parts: Parts) -> dict[str, Any]:
    """Queue a fine-tuning job."""
    wanted = _wanted(body)
    with parts.database.transaction(who.project_id) as session:
        row, job = handlers.create_fine_tuning_job(session, who.project_id, wanted, TrainingSettings())
        session.refresh(row)
        return job_object(row, job, who)


@router.get("")
def list_jobs(request: Request, who: Who, parts: Parts, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """The project's fine-tuning jobs, newest first; `metadata[name]=value` narrows the list."""
    metadata = {
        key[len("metadata[") : -1]: value
        for key, value in request.query_params.items()
        if key.startswith("metadata[") and key.endswith("]")
    }
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.list_jobs(session, after=after, limit=limit, metadata=metadata)
        return page([job_object(row, job, who) for row, job in found], has_more=more)


@router.get("/{job_id}")
def show_job(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One job."""
    with parts.database.transaction(who.project_id) as session:
        return job_object(*repository.get_job(session, job_id), who)


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Cancel: at once if it waits, within seconds if it runs."""
    return _steer(control.cancel, job_id, who, parts)


@router.post("/{job_id}/pause")
def pause_job(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Pause: a running job writes a checkpoint first."""
    return _steer(control.pause, job_id, who, parts)


@router.post("/{job_id}/resume")
def resume_job(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Go on from the checkpoint."""
    return _steer(control.resume, job_id, who, parts)


@router.get("/{job_id}/events")
def list_events(job_id: str, who: Who, parts: Parts, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """What the job said, newest first; one `metrics` event per optimiser step."""
    with parts.database.transaction(who.project_id) as session:
        repository.get_job(session, job_id)
        found, more = control.events(session, job_id, after=_event_number(after), limit=limit)
        return page([event_object(event) for event in found], has_more=more)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str, who: Who, parts: Parts, after: str | None = None, limit: Limit = 10
) -> dict[str, Any]:
    """The job's checkpoints, newest first."""
    with parts.database.transaction(who.project_id) as session:
        row, _ = repository.get_job(session, job_id)
        found, more = repository.list_checkpoints(session, job_id, after=after, limit=limit)
        return page([checkpoint_object(row, checkpoint) for checkpoint in found], has_more=more)


def job_object(row: TrainingJob, job: Job, who: Caller) -> dict[str, Any]:
    """OpenAI's FineTuningJob, and our own fields beside it."""
    hyperparameters = hyperparameters_of(Recipe.model_validate(row.recipe))
    seconds_left = (job.progress or {}).get("seconds_left") if job.status == "running" else None
    return {
        "id": row.id,
        "object": "fine_tuning.job",
        "created_at": unix(row.created_at),
        "finished_at": unix(job.finished_at),
        "estimated_finish": None if seconds_left is None else int(now().timestamp() + seconds_left),
        "model": row.base_model,
        "fine_tuned_model": row.fine_tuned_model,
        "organization_id": who.organisation_id,
        "status": job.status,
        "training_file": row.training_file or row.dataset_id,
        "validation_file": row.validation_file,
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "seed": row.seed,
        "result_files": [],
        "trained_tokens": row.trained_tokens,
        "error": job.error or {},
        "integrations": [],
        "metadata": row.metadata_,
        "dataset": row.dataset_id,
        "recipe": row.recipe,
        "prompt": row.prompt,
        "init_adapter": row.init_adapter_id,
        "progress": job.progress,
        "result": job.result,
    }


def event_object(event: JobEvent) -> dict[str, Any]:
    return {
        "id": f"ftevent-{event.id}",
        "object": "fine_tuning.job.event",
        "created_at": unix(event.created_at),
        "level": event.level,
        "message": event.message,
        "type": event.type,
        "data": event.data,
    }


def checkpoint_object(row: TrainingJob, checkpoint: CheckpointRow) -> dict[str, Any]:
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": unix(checkpoint.created_at),
        "fine_tuning_job_id": checkpoint.job_id,
        "fine_tuned_model_checkpoint": f"ft:{row.base_model}:{row.id}:ckpt-step-{checkpoint.step}",
        "step_number": checkpoint.step,
        "metrics": checkpoint.metrics,
    }


def _wanted(body: CreateJob) -> handlers.NewTrainingJob:
    given = body.hyperparameters or Hyperparameters()
    if body.method is not None:
        if body.method.type != "supervised":
            raise FineTuningMethodUnsupported(
                f"The method {body.method.type!r} is not available; use supervised.", param="method.type"
            )
        given = body.method.supervised.hyperparameters
    dataset, training_file = body.dataset, body.training_file
    if training_file is not None and training_file.startswith("ds_"):
        dataset, training_file = dataset or training_file, None
    if (dataset is None) == (training_file is None):
        raise InvalidInput("Give a training_file or a dataset, one of the two.", param="training_file")
    recipe = with_hyperparameters(Recipe.wanted(body.recipe), given.model_dump())
    return handlers.NewTrainingJob(
        model=body.model,
        dataset_id=dataset,
        training_file=training_file,
        validation_file=body.validation_file,
        recipe=recipe if body.seed is None else recipe.model_copy(update={"seed": body.seed}),
        suffix=body.suffix,
        metadata=body.metadata or {},
        prompt=body.prompt,
        max_passage_tokens=body.max_passage_tokens,
        init_adapter=body.init_adapter,
    )


def _steer(wish: Any, job_id: str, who: Caller, parts: Wiring) -> dict[str, Any]:
    with parts.database.transaction(who.project_id) as session:
        repository.get_job(session, job_id)
        wish(session, job_id)
        return job_object(*repository.get_job(session, job_id), who)


def _event_number(after: str | None) -> int | None:
    if after is None:
        return None
    number = after.removeprefix("ftevent-")
    if not number.isdigit():
        raise InvalidInput(f"{after!r} is not the id of an event.", param="after")
    return int(number)
