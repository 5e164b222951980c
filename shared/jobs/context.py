"""What a handler sees of its job: fenced transactions, progress, events, and the wish to stop."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.database import Database
from shared.jobs.tables import Job, JobEvent
from shared.messages import Command
from shared.wiring import Wiring

JobHandler = Callable[["JobContext", Any], None]


class JobInterrupted(Exception):
    """The work stops before its end for a reason outside it; handlers save their state and let it pass."""


class LeaseLost(JobInterrupted):
    """Another worker owns the job now (or it ended): nothing that this worker writes counts any more."""


class JobCancelled(JobInterrupted):
    """The project asked to cancel."""


class HandOver(JobInterrupted):
    """The worker shuts down or the project paused the job: save, stop, let another go on. No attempt is counted."""


class JobContext:
    """One claim of one job. Every write is conditional on the claim's fence.

    The runner's heartbeat renews the lease, delivers progress and brings back wishes to cancel or pause;
    handlers never touch the jobs table themselves.
    """

    def __init__(self, job: Job, wiring: Wiring, shutting_down: threading.Event) -> None:
        self.job = job
        self.project_id = job.project_id
        self.wiring = wiring
        self.ended = False
        self._database: Database = wiring.database
        self._shutting_down = shutting_down
        self._wish: str | None = None
        self._lost = False
        self._progress: dict[str, Any] | None = None
        self._progress_lock = threading.Lock()
        self._begun = time.monotonic()

    @contextmanager
    def transaction(self, *, idle_seconds: float | None = None) -> Iterator[Session]:
        """A transaction of the job's project that holds the job row: it commits only while this claim is current.

        Raises LeaseLost otherwise. Do not call `event` inside it, nor work long between its statements: the row must
        be free again soon after the lease of a worker that was stopped in here is over, so the server ends a
        transaction that idles for as long as a lease, or `idle_seconds`. (A heartbeat that waited for the row then has
        it for as long once more.)
        """
        idle = self.wiring.settings.lease_seconds if idle_seconds is None else idle_seconds
        with self._database.transaction(self.project_id, idle_seconds=idle) as session:
            owned = sa.select(Job.id).where(*self.owned()).with_for_update(key_share=True)
            if session.scalars(owned).one_or_none() is None:
                self._lost = True
                raise LeaseLost(f"job {self.job.id}, fence {self.job.fence}")
            yield session

    def succeed(self, session: Session, result: dict[str, Any]) -> None:
        """End the job well, in the same transaction as its results. Call it once."""
        self.end(session, "succeeded", result=result)

    def end(self, session: Session, status: str, **columns: Any) -> None:
        """Move to a terminal state under the fence; the triggers announce it."""
        done = session.execute(sa.update(Job).where(*self.owned()).values(status=status, **columns).returning(Job.id))
        if done.scalar_one_or_none() is None:
            raise LeaseLost(f"job {self.job.id}, fence {self.job.fence}")
        self.ended = True

    def event(
        self,
        message: str,
        *,
        level: str = "info",
        type: str = "message",  # noqa: A002  (OpenAI's own name)
        data: dict[str, Any] | None = None,
        step: int | None = None,
    ) -> bool:
        """Publish what happened; the same (type, step) again is a no-op, so resumed work repeats nothing.

        Answers whether it was new.
        """
        row: dict[str, Any] = {"project_id": self.project_id, "job_id": self.job.id, "level": level, "type": type}
        row |= {"message": message, "data": data, "step": step}
        with self.transaction() as session:
            written = session.scalar(
                insert(JobEvent)
                .values(row)
                .on_conflict_do_nothing(
                    index_elements=["job_id", "type", "step"], index_where=sa.text("step IS NOT NULL")
                )
                .returning(sa.literal(True))
            )
        return written is not None

    def progress(
        self,
        done: float,
        total: float,
        unit: str,
        message: str = "",
        *,
        measured: Callable[[], float | None] | None = None,
    ) -> None:
        """Say how far the work is; written by the heartbeat, about once a second, with an estimate of what is left.

        The estimate takes this claim's work to go on at its average rate; `measured` answers the seconds left (or None)
        where the handler knows better.
        """
        share = done / total if total else 0.0
        elapsed = time.monotonic() - self._begun
        average = elapsed / share - elapsed if share > 0 else None
        left = average if measured is None else measured()
        with self._progress_lock:
            self._progress = {
                "done": done,
                "total": total,
                "unit": unit,
                "message": message,
                "seconds_left": None if left is None else round(left, 1),
                "at": round(time.time(), 1),
            }

    def should_stop(self) -> str | None:
        """None, or why to stop: "cancel", "pause", "handover"; raises LeaseLost when the claim is gone."""
        if self._lost:
            raise LeaseLost(f"job {self.job.id}, fence {self.job.fence}")
        if self._wish is None and self._shutting_down.is_set():
            return "handover"
        return self._wish

    def check(self) -> None:
        """Raise JobCancelled or HandOver when somebody wants the work to stop."""
        wish = self.should_stop()
        if wish == "cancel":
            raise JobCancelled(self.job.id)
        if wish is not None:
            raise HandOver(wish)

    def heartbeat(self, lease_seconds: float, *, renew: bool) -> None:
        """Renew the lease, write progress and hear wishes. Called by the runner's heartbeat thread only."""
        with self._progress_lock:
            progress, self._progress = self._progress, None
        values: dict[str, Any] = {} if progress is None else {"progress": progress}
        renews = renew or progress is not None
        with self._database.transaction(self.project_id, idle_seconds=lease_seconds) as session:
            wishes = (Job.cancel_requested, Job.pause_requested)
            if renews:
                # locked first: an update that waits for the row would write the time of before its wait
                session.execute(sa.select(Job.id).where(*self.owned()).with_for_update(key_share=True))
                lease = sa.func.make_interval(0, 0, 0, 0, 0, 0, lease_seconds)
                values["lease_expires_at"] = sa.func.clock_timestamp() + lease
                found = session.execute(sa.update(Job).where(*self.owned()).values(values).returning(*wishes)).first()
            else:
                found = session.execute(sa.select(*wishes).where(*self.owned())).first()
        if found is None:
            self._lost = not self.ended
        elif found.cancel_requested:
            self._wish = "cancel"
        else:
            self._wish = "pause" if found.pause_requested else None

    def owned(self) -> tuple[sa.ColumnElement[bool], ...]:
        """The condition on every write: this job, this claim, still running."""
        return (Job.id == self.job.id, Job.fence == self.job.fence, Job.status == "running")


def command_of(job: Job, handlers: dict[type[Command], JobHandler]) -> tuple[JobHandler, Command]:
    """The handler and the typed command of a claimed job; KeyError when this worker knows no such kind."""
    for kind, handler in handlers.items():
        if kind.kind == job.kind:
            return handler, kind.model_validate(job.payload)
    raise KeyError(job.kind)
