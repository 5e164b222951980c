"""Sending a command: the job row and its wake-up are written in the caller's own transaction, or not at all."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.ids import new_id
from shared.jobs.tables import Job, Outbox
from shared.messages import Command
from shared.telemetry import bound


def send(
    session: Session,
    project_id: str,
    command: Command,
    *,
    job_id: str | None = None,
    subject_id: str | None = None,
    parent_id: str | None = None,
    notify: type[Command] | None = None,
    dedupe_key: str | None = None,
    max_attempts: int = 3,
    run_after: datetime | None = None,
) -> Job:
    """Order `command`; nothing is sent unless the transaction commits, and then it cannot be lost.

    With `notify`, the job's end sends that command once, whatever the end. A second send with the same
    `dedupe_key` in a project answers the first job. One with `run_after` waits for that moment; the dispatcher's
    reconciler wakes it then.
    """
    row = {
        "id": job_id or new_id("job_"),
        "project_id": project_id,
        "kind": command.kind,
        "queue": command.queue,
        "payload": command.model_dump(mode="json"),
        "subject_id": subject_id,
        "parent_id": parent_id,
        "notify_kind": notify.kind if notify else None,
        "notify_queue": notify.queue if notify else None,
        "dedupe_key": dedupe_key,
        "max_attempts": max_attempts,
        "request_id": bound("request_id"),
        "trace_id": bound("trace_id"),
        "run_after": run_after or sa.func.now(),
    }
    written = session.execute(
        insert(Job).values(row).on_conflict_do_nothing(index_elements=["project_id", "dedupe_key"]).returning(Job)
    ).scalar_one_or_none()
    if written is None:
        return session.query(Job).filter_by(project_id=project_id, dedupe_key=dedupe_key).one()
    if run_after is None:
        wake(session, written)
    return written


def wake(session: Session, job: Job) -> None:
    """Write the wake-up of a queued job; the relay publishes it after the commit."""
    session.add(Outbox(project_id=job.project_id, job_id=job.id, queue=job.queue))
    session.flush()
