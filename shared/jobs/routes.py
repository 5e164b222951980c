"""The jobs door: list, look, events, cancel, pause, resume; the same for every kind of job."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response

from shared.answers import Page, answering
from shared.clock import unix
from shared.errors import InvalidInput
from shared.jobs import control, streaming
from shared.jobs.answers import JobEventObject, JobObject
from shared.jobs.tables import Job, JobEvent
from shared.web import Caller, caller, page, wiring
from shared.wiring import Wiring

router = APIRouter(prefix="/jobs", tags=["jobs"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
Limit = Annotated[int, Query(ge=1, le=100)]
LastEvent = Annotated[str | None, Header(alias="Last-Event-ID")]


@router.get("", responses=answering(Page[JobObject]))
def list_jobs(
    who: Who,
    parts: Parts,
    after: str | None = None,
    limit: Limit = 20,
    kind: str | None = None,
    status: str | None = None,
) -> dict[str, Any]:
    """The project's jobs, newest first."""
    with parts.database.transaction(who.project_id) as session:
        found, more = control.listing(session, after=after, limit=limit, kind=kind, status=status)
        return page([job_object(job) for job in found], has_more=more)


@router.get("/{job_id}", responses=answering(JobObject))
def show_job(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One job: its state, progress with seconds left, result or error."""
    with parts.database.transaction(who.project_id) as session:
        return job_object(control.get(session, job_id))


@router.get("/{job_id}/events", response_model=None, responses=answering(Page[JobEventObject]))
def list_events(
    job_id: str,
    who: Who,
    parts: Parts,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
    stream: bool = False,
    last_event_id: LastEvent = None,
) -> dict[str, Any] | Response:
    """What the job said, newest first unless `order=asc`.

    With `stream=true` as server-sent events, oldest first and each once, until the job ends: `data` is an event object
    and `id` its id, after which a client that sends it as `Last-Event-ID` goes on. `event: progress` tells status and
    progress in between, `event: end` is the last message. `limit` and `order` are for pages alone.
    """
    known = _event_number(last_event_id or after, param="Last-Event-ID" if last_event_id else "after")
    with parts.database.transaction(who.project_id) as session:
        control.get(session, job_id)
        if not stream:
            found, more = control.events(session, job_id, after=known, limit=limit, newest_first=order == "desc")
            return page([event_object(event) for event in found], has_more=more)
    return streaming.stream(parts.database, streaming.Following(who.project_id, job_id, event_object, known))


@router.post("/{job_id}/cancel", responses=answering(JobObject))
def cancel_job(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Cancel: at once if it waits, at its next check if it runs. Work that no client ordered is refused."""
    with parts.database.transaction(who.project_id) as session:
        control.refuse_internal(session, job_id)
        return job_object(control.cancel(session, job_id))


@router.post("/{job_id}/pause", responses=answering(JobObject))
def pause_job(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Pause: running work saves its state first. Work that no client ordered is refused."""
    with parts.database.transaction(who.project_id) as session:
        control.refuse_internal(session, job_id)
        return job_object(control.pause(session, job_id))


@router.post("/{job_id}/resume", responses=answering(JobObject))
def resume_job(job_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Queue a paused job again."""
    with parts.database.transaction(who.project_id) as session:
        return job_object(control.resume(session, job_id))


def _event_number(event_id: str | None, *, param: str) -> int | None:
    if event_id is None:
        return None
    number = event_id.removeprefix("jobevent_")
    if not (number.isascii() and number.isdigit() and int(number) < 2**63):
        raise InvalidInput(f"{event_id!r} is not the id of an event.", param=param)
    return int(number)


def job_object(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "object": "job",
        "kind": job.kind,
        "queue": job.queue,
        "status": job.status,
        "subject_id": job.subject_id,
        "parent_id": job.parent_id,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "cancel_requested": job.cancel_requested,
        "progress": job.progress,
        "result": job.result,
        "error": job.error,
        "request_id": job.request_id,
        "trace_id": job.trace_id,
        "created_at": unix(job.created_at),
        "started_at": unix(job.started_at),
        "finished_at": unix(job.finished_at),
    }


def event_object(event: JobEvent) -> dict[str, Any]:
    return {
        "id": f"jobevent_{event.id}",
        "object": "job.event",
        "job_id": event.job_id,
        "created_at": unix(event.created_at),
        "level": event.level,
        "type": event.type,
        "message": event.message,
        "data": event.data,
    }
