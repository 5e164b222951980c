"""What a project may ask of its jobs: look, cancel, pause, resume. Running work hears of it at its next heartbeat."""

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.errors import Conflict, NotFound
from shared.jobs.queue import wake
from shared.jobs.tables import TERMINAL, Job, JobEvent
from shared.messages import INTERNAL_KINDS


class JobNotFound(NotFound):
    code = "job_not_found"


class JobAlreadyEnded(Conflict):
    """OpenAI's client retries a 409, so this is a 400: asking again cannot help."""

    status = 400
    code = "job_already_ended"


class JobNotSteerable(Conflict):
    """A 400, as `JobAlreadyEnded`: no client ordered this work, it follows from what was ordered."""

    status = 400
    code = "job_not_steerable"


def get(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """The project's job, or JobNotFound (another project's job is not found either)."""
    query = sa.select(Job).where(Job.id == job_id)
    job = session.scalars(query.with_for_update(key_share=True) if lock else query).one_or_none()
    if job is None:
        raise JobNotFound(f"There is no job {job_id!r} in this project.", param="job_id")
    return job


def listing(
    session: Session,
    *,
    after: str | None = None,
    limit: int = 20,
    kind: str | None = None,
    status: str | None = None,
) -> tuple[list[Job], bool]:
    """Newest first, after the job with id `after`; the flag says whether more follow."""
    query = sa.select(Job).order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if status is not None:
        query = query.where(Job.status == status)
    if after is not None:
        last = get(session, after)
        query = query.where(sa.tuple_(Job.created_at, Job.id) < sa.tuple_(last.created_at, last.id))
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def cancel(session: Session, job_id: str) -> Job:
    """Waiting or paused work is cancelled at once; running work stops at its next check and is cancelled then."""
    job = get(session, job_id, lock=True)
    _refuse_ended(job, "cancelled")
    job.cancel_requested = True
    if job.status in {"queued", "paused"}:
        job.status = "cancelled"
    session.flush()
    session.refresh(job)
    return job


def pause(session: Session, job_id: str) -> Job:
    """Waiting work is paused at once; running work saves its state first."""
    job = get(session, job_id, lock=True)
    _refuse_ended(job, "paused")
    if job.status == "queued":
        job.status = "paused"
    elif job.status == "running":
        job.pause_requested = True
    session.flush()
    return job


def resume(session: Session, job_id: str) -> Job:
    """Paused work is queued again; a pause that running work has not heard yet is taken back."""
    job = get(session, job_id, lock=True)
    _refuse_ended(job, "resumed")
    job.pause_requested = False
    if job.status == "paused":
        job.status = "queued"
        job.woken_at = sa.func.now()
        session.flush()
        wake(session, job)
    return job


def refuse_internal(session: Session, job_id: str) -> None:
    """JobNotSteerable for work that a service owes to what was ordered before; services themselves may steer it."""
    job = get(session, job_id)
    if job.kind in INTERNAL_KINDS:
        raise JobNotSteerable(
            f"Job {job.id} ({job.kind}) brings to its end what was ordered before, so it cannot be cancelled or "
            "paused. Cancel what was ordered instead, while it runs.",
            param="job_id",
        )


def events(
    session: Session, job_id: str, *, after: int | None = None, limit: int = 20, newest_first: bool = True
) -> tuple[list[JobEvent], bool]:
    """A job's events from beyond event `after`; the flag says whether more follow."""
    query = sa.select(JobEvent).where(JobEvent.job_id == job_id).limit(limit + 1)
    query = query.order_by(JobEvent.id.desc() if newest_first else JobEvent.id)
    if after is not None:
        query = query.where(JobEvent.id < after if newest_first else JobEvent.id > after)
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def _refuse_ended(job: Job, wish: str) -> None:
    if job.status in TERMINAL:
        raise JobAlreadyEnded(f"Job {job.id} is already {job.status}, so it cannot be {wish}.", param="job_id")
