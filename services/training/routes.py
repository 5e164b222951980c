"""`/fine_tuning` as OpenAI's client calls it: jobs with events and checkpoints; the rest is refused by name."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response
from sqlalchemy.orm import Session

from services.training import handlers, repository
from services.training.answers import FineTuningCheckpoint, FineTuningEvent, FineTuningJob
from services.training.errors import FineTuningMethodUnsupported, FineTuningUnsupported, HyperparametersConflict
from services.training.hyperparameters import planned
from services.training.objects import checkpoint_object, event_object, job_object
from services.training.recipe import Recipe
from services.training.schemas import CreateJob, Hyperparameters
from services.training.settings import TrainingSettings
from shared.answers import Page, answering
from shared.errors import InvalidInput
from shared.jobs import control, streaming
from shared.web import METADATA_FILTER, Caller, caller, metadata_filter, page, wiring
from shared.wiring import Wiring

router = APIRouter(prefix="/fine_tuning", tags=["training"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
Limit = Annotated[int, Query(ge=1, le=100)]
Metadata = Annotated[dict[str, str], Depends(metadata_filter)]
LastEvent = Annotated[str | None, Header(alias="Last-Event-ID")]


@router.post("/jobs", responses=answering(FineTuningJob))
def create_job(body: CreateJob, who: Who, parts: Parts) -> dict[str, Any]:
    """Queue a fine-tuning job: `supervised`, `dpo` or `continued_pretraining`.

    Hyperparameters left to "auto" are chosen from the number of training examples n once a worker has read them, and
    then echoed as numbers: batch_size is the power of two nearest to n / 16 (1 to 16), n_epochs makes 100 steps (3 to
    10, fewer past 2,000 examples; of documents 1 to 4), learning_rate_multiplier is the square root of batch_size / 16.
    A hyperparameter or field that is not known here is refused with a 400 that names it.
    """
    wanted = _wanted(body)
    with parts.database.transaction(who.project_id) as session:
        row, job = handlers.create_fine_tuning_job(session, who.project_id, wanted, TrainingSettings())
        session.refresh(row)
        return job_object(row, job, who)


@router.get("/jobs", openapi_extra=METADATA_FILTER, responses=answering(Page[FineTuningJob]))
def list_jobs(
    who: Who, parts: Parts, metadata: Metadata, after: str | None = None, limit: Limit = 20
) -> dict[str, Any]:
    """The project's fine-tuning jobs, newest first; `metadata[name]=value` narrows the list."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.list_jobs(session, after=after, limit=limit, metadata=metadata)
        return page([job_object(row, job, who) for row, job in found], has_more=more)


@router.get("/jobs/{job_id}", responses=answering(FineTuningJob))
def show_job(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One job."""
    with parts.database.transaction(who.project_id) as session:
        return job_object(*repository.get_job(session, job_id), who)


@router.post("/jobs/{job_id}/cancel", responses=answering(FineTuningJob))
def cancel_job(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Cancel: at once if it waits, within seconds if it runs."""
    return _steer(lambda session: handlers.cancel_job(session, job_id), job_id, who, parts)


@router.post("/jobs/{job_id}/pause", responses=answering(FineTuningJob))
def pause_job(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Pause: a running job writes a checkpoint first."""
    return _steer(lambda session: handlers.pause_job(session, job_id), job_id, who, parts)


@router.post("/jobs/{job_id}/resume", responses=answering(FineTuningJob))
def resume_job(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Go on from the checkpoint."""
    return _steer(lambda session: handlers.resume_job(session, job_id), job_id, who, parts)


@router.get("/jobs/{job_id}/events", response_model=None, responses=answering(Page[FineTuningEvent]))
def list_events(
    job_id: str,
    who: Who,
    parts: Parts,
    after: str | None = None,
    limit: Limit = 20,
    stream: bool = False,
    last_event_id: LastEvent = None,
) -> dict[str, Any] | Response:
    """What the job said, newest first; one `metrics` event per optimiser step.

    With `stream=true` as server-sent events, oldest first and each once, until the job ends: `data` is an event object
    and `id` its id, after which a client that sends it as `Last-Event-ID` goes on. `event: progress` tells status and
    progress in between, `event: end` is the last message. `limit` is for pages alone.
    """
    known = _event_number(last_event_id or after, param="Last-Event-ID" if last_event_id else "after")
    with parts.database.transaction(who.project_id) as session:
        repository.get_job(session, job_id)
        if not stream:
            found, more = control.events(session, job_id, after=known, limit=limit)
            return page([event_object(event) for event in found], has_more=more)
    return streaming.stream(parts.database, streaming.Following(who.project_id, job_id, event_object, known))


@router.get("/jobs/{job_id}/checkpoints", responses=answering(Page[FineTuningCheckpoint]))
def list_checkpoints(
    job_id: str, who: Who, parts: Parts, after: str | None = None, limit: Limit = 10
) -> dict[str, Any]:
    """The job's checkpoints, newest first."""
    with parts.database.transaction(who.project_id) as session:
        repository.get_job(session, job_id)
        found, more = repository.list_checkpoints(session, job_id, after=after, limit=limit)
        return page([checkpoint_object(checkpoint) for checkpoint in found], has_more=more)


@router.get("/checkpoints/{checkpoint:path}/permissions", include_in_schema=False)
@router.post("/checkpoints/{checkpoint:path}/permissions", include_in_schema=False)
@router.delete("/checkpoints/{checkpoint:path}/permissions/{permission_id}", include_in_schema=False)
def checkpoint_permissions(checkpoint: str, _who: Who) -> dict[str, Any]:
    """Not supported: a project's checkpoints are its own and cannot be shared. Always answers 400."""
    raise FineTuningUnsupported(
        f"Checkpoints belong to their project and cannot be shared, so {checkpoint!r} has no permissions."
    )


def _wanted(body: CreateJob) -> handlers.NewTrainingJob:
    if body.integrations:
        kind = body.integrations[0].get("type")
        raise FineTuningUnsupported(
            f"The integration {kind!r} is not supported: metrics are in the job's events and its result file.",
            param="integrations",
        )
    dataset, training_file = body.dataset, body.training_file
    if training_file is not None and training_file.startswith("ds_"):
        dataset, training_file = dataset or training_file, None
    if (dataset is None) == (training_file is None):
        raise InvalidInput("Give a training_file or a dataset, one of the two.", param="training_file")
    recipe, auto = planned(_recipe(body), _hyperparameters(body))
    if recipe.objective == "continued_pretraining":
        _without_layout(body)
    return handlers.NewTrainingJob(
        model=body.model,
        dataset_id=dataset,
        training_file=training_file,
        validation_file=body.validation_file,
        replay_file=body.replay_file,
        recipe=recipe if body.seed is None else recipe.model_copy(update={"seed": body.seed}),
        auto=auto,
        suffix=body.suffix,
        metadata=body.metadata,
        prompt=body.prompt,
        max_passage_tokens=body.max_passage_tokens,
        init_adapter=body.init_adapter,
        max_minutes=body.max_minutes,
    )


def _without_layout(body: CreateJob) -> None:
    """Documents are learned as they are: refuse what would be ignored."""
    for name in ("prompt", "max_passage_tokens"):
        if name in body.model_fields_set:
            raise InvalidInput(f"`{name}` lays out chats; documents are learned as they are. Leave it out.", param=name)


def _recipe(body: CreateJob) -> Recipe:
    """The recipe with the method as its objective; what the client set in it stays known as set."""
    if body.method is None:
        return Recipe.wanted(body.recipe)
    if body.method.type == "reinforcement":
        raise FineTuningMethodUnsupported(
            "The method 'reinforcement' is not supported; use supervised, dpo or continued_pretraining.",
            param="method.type",
        )
    recipe = Recipe.wanted(body.recipe, objective=body.method.type)
    if recipe.objective != body.method.type:
        raise HyperparametersConflict(
            f"The recipe's objective is {recipe.objective}, the method's type {body.method.type}.", param="method.type"
        )
    return recipe


def _hyperparameters(body: CreateJob) -> dict[str, Any]:
    """The method's hyperparameters and the deprecated ones beside them, which may not say something else."""
    method = body.method
    for other in ("supervised", "dpo", "continued_pretraining", "reinforcement"):
        if method is not None and other != method.type and getattr(method, other) is not None:
            raise InvalidInput(f"`{other}` does not belong to the method {method.type!r}.", param=f"method.{other}")
    chosen = getattr(method, method.type) if method is not None else None
    given = _stated(chosen.hyperparameters if chosen is not None else None)
    old = _stated(body.hyperparameters)
    for name, value in old.items():
        if given.get(name, value) != value:
            raise HyperparametersConflict(
                f"`hyperparameters` and `method` give {name} two values; leave the deprecated one out.",
                param=f"hyperparameters.{name}",
            )
    return old | given


def _stated(hyperparameters: Hyperparameters | None) -> dict[str, Any]:
    return hyperparameters.model_dump(exclude_none=True) if hyperparameters is not None else {}


def _steer(steer: Callable[[Session], None], job_id: str, who: Caller, parts: Wiring) -> dict[str, Any]:
    with parts.database.transaction(who.project_id) as session:
        steer(session)
        session.flush()
        return job_object(*repository.get_job(session, job_id), who)


def _event_number(event_id: str | None, *, param: str) -> int | None:
    if event_id is None:
        return None
    number = event_id.removeprefix("ftevent-")
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        raise InvalidInput(f"{event_id!r} is not the id of an event.", param=param)
    return int(number)
