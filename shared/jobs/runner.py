"""Running one job from its wake-up to its end: claim, heartbeat, handle, and the one place that ends or requeues."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from shared.database import Database
from shared.errors import UpliftError
from shared.jobs.context import (
    HandOver,
    JobCancelled,
    JobContext,
    JobHandler,
    LeaseLost,
    command_of,
)
from shared.jobs.queue import wake
from shared.jobs.tables import Job
from shared.messages import Command
from shared.telemetry import logger
from shared.wiring import Wiring

log = logger(__name__)
_TICK_SECONDS = 1.0


class JobNotEnded(RuntimeError):
    """A handler returned without `ctx.succeed`: a defect of the handler, reported as one."""


class JobRunner:
    """Runs the jobs of one worker process; `shutting_down` makes every running handler hand over."""

    def __init__(self, wiring: Wiring, handlers: dict[type[Command], JobHandler], *, worker: str) -> None:
        self.shutting_down = threading.Event()
        self._wiring = wiring
        self._handlers = handlers
        self._worker = worker

    def run(self, project_id: str, job_id: str) -> str:
        """Claim and run; answers what became of the job ("unclaimed" when another has it or it ended)."""
        if self.shutting_down.is_set():
            return "unclaimed"
        job = claim(
            self._wiring.database,
            project_id,
            job_id,
            worker=self._worker,
            lease=self._wiring.settings.lease_seconds,
        )
        if job is None:
            return "unclaimed"
        with structlog.contextvars.bound_contextvars(
            job_id=job.id, job_kind=job.kind, request_id=job.request_id, trace_id=job.trace_id
        ):
            log.info("job claimed", attempt=job.attempt, fence=job.fence)
            context = JobContext(job, self._wiring, self.shutting_down)
            began = time.monotonic()
            with heartbeats(context, self._wiring.settings.heartbeat_seconds, self._wiring.settings.lease_seconds):
                became = self._handle(context)
            log.info("job left", became=became, seconds=round(time.monotonic() - began, 3))
            return became

    def _handle(self, context: JobContext) -> str:
        try:
            handler, command = command_of(context.job, self._handlers)
            handler(context, command)
            if not context.ended:
                raise JobNotEnded(f"The handler of {context.job.kind} returned without ending its job.")
        except LeaseLost:
            return "lost"
        except JobCancelled:
            return self._close(context, lambda session: context.end(session, "cancelled"), "cancelled")
        except HandOver:
            return self._close(context, lambda session: _hand_over(session, context), "handed over")
        except UpliftError as error:
            if error.retryable and context.job.attempt < context.job.max_attempts:
                log.warning("job will be tried again", error=error.message)
                return self._close(context, lambda session: _requeue(session, context), "queued")
            record = {"code": error.code, "message": error.message, "param": error.param}
            return self._close(context, lambda session: context.end(session, "failed", error=record), "failed")
        # the process's outer edge: whatever a handler raises is logged whole and retried until its attempts are spent
        except Exception as error:  # noqa: BLE001
            return self._unexpected(context, error)
        return "succeeded"

    def _unexpected(self, context: JobContext, error: Exception) -> str:
        log.exception("job handler raised", attempt=context.job.attempt)
        if context.job.attempt < context.job.max_attempts:
            return self._close(context, lambda session: _requeue(session, context), "queued")
        record = {
            "code": "poisoned",
            "message": f"Failed on all {context.job.attempt} attempts; the last time with "
            f"{type(error).__name__}: {error}. The worker's log has the trace.",
            "param": None,
        }
        return self._close(context, lambda session: context.end(session, "failed", error=record), "failed")

    def _close(self, context: JobContext, write: Any, became: str) -> str:
        try:
            with context.transaction() as session:
                write(session)
        except LeaseLost:
            return "lost"
        return became


def claim(database: Database, project_id: str, job_id: str, *, worker: str, lease: float) -> Job | None:
    """Take a queued job: attempt + 1, a new fence, a lease by the database's clock. None if it is not to be had."""
    free = (
        sa.select(Job.id)
        .where(Job.id == job_id, Job.status == "queued", Job.run_after <= sa.func.now())
        .with_for_update(skip_locked=True, key_share=True)
        .scalar_subquery()
    )
    taken = (
        sa.update(Job)
        .where(Job.id == free)
        .values(
            status="running",
            attempt=Job.attempt + 1,
            fence=sa.text("nextval('job_fences')"),
            worker=worker,
            lease_expires_at=_from_now(lease),
            started_at=sa.func.coalesce(Job.started_at, sa.func.now()),
        )
        .returning(Job)
        .execution_options(synchronize_session=False)
    )
    with database.transaction(project_id, idle_seconds=lease) as session:
        return session.scalars(taken).one_or_none()


@contextmanager
def heartbeats(context: JobContext, every: float, lease: float) -> Iterator[None]:
    """Keep the lease alive from a thread of its own while the handler works."""
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(context, stop, every, lease), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _beat(context: JobContext, stop: threading.Event, every: float, lease: float) -> None:
    tick = min(_TICK_SECONDS, every)
    renewed = time.monotonic()
    while not stop.wait(tick):
        due = time.monotonic() - renewed >= every
        try:
            context.heartbeat(lease, renew=due)
        except SQLAlchemyError as error:
            # the lease survives a short outage; a long one costs the claim, which the fence makes harmless
            log.warning("heartbeat failed", job_id=context.job.id, error=str(error))
            continue
        if due:
            renewed = time.monotonic()


def _hand_over(session: Session, context: JobContext) -> None:
    job = session.get_one(Job, context.job.id)
    if job.cancel_requested:
        context.end(session, "cancelled")
        return
    job.status = "paused" if job.pause_requested else "queued"
    job.pause_requested = False
    job.attempt -= 1
    _release(session, job)


def _requeue(session: Session, context: JobContext) -> None:
    job = session.get_one(Job, context.job.id)
    job.status = "queued"
    job.run_after = _from_now(min(2.0**job.attempt, 60.0))
    _release(session, job)


def _release(session: Session, job: Job) -> None:
    job.lease_expires_at = None
    job.worker = None
    job.woken_at = sa.func.now()
    session.flush()
    if job.status == "queued":
        # a job that waits for its `run_after` claims nothing yet; the dispatcher wakes it again when it is due
        wake(session, job)


def _from_now(seconds: float) -> Any:
    return sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
