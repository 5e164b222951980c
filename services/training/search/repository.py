"""Every query of searches on their own tables, and what they look at of their trials' jobs."""

from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.training.search.errors import SearchNotFound
from services.training.search.tables import SearchRow, TrialRow
from shared import read_models as others
from shared.errors import InvalidInput
from shared.jobs.tables import Job, JobEvent


@dataclass(frozen=True)
class JobState:
    """A trial's job at the moment it was read."""

    status: str
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    progress: dict[str, Any] | None
    finished_at: datetime | None


def search(session: Session, search_id: str, *, lock: bool = False) -> SearchRow:
    """One search; locked, nobody else steers it until this transaction ends."""
    query = sa.select(SearchRow).where(SearchRow.id == search_id)
    found = session.scalars(query.with_for_update(key_share=True) if lock else query).one_or_none()
    if found is None:
        raise SearchNotFound(f"There is no search {search_id!r} in this project.", param="search_id")
    return found


def searches(session: Session, *, after: str | None, limit: int) -> tuple[list[SearchRow], bool]:
    """Newest first, after the search `after`; the flag says whether more follow."""
    order = (SearchRow.created_at, SearchRow.id)
    query = sa.select(SearchRow).order_by(*(column.desc() for column in order)).limit(limit + 1)
    if after is not None:
        last = search(session, after)
        query = query.where(sa.tuple_(*order) < sa.tuple_(last.created_at, last.id))
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def trials(session: Session, search_id: str) -> list[TrialRow]:
    """All trials of a search, in the order they began."""
    return list(session.scalars(sa.select(TrialRow).where(TrialRow.search_id == search_id).order_by(TrialRow.number)))


def trials_page(
    session: Session, search_id: str, *, after: str | None, limit: int, descending: bool
) -> tuple[list[TrialRow], bool]:
    """Trials by their number, after the trial `after`; the flag says whether more follow."""
    query = sa.select(TrialRow).where(TrialRow.search_id == search_id).limit(limit + 1)
    query = query.order_by(TrialRow.number.desc() if descending else TrialRow.number)
    if after is not None:
        last = session.get(TrialRow, after)
        if last is None or last.search_id != search_id:
            raise InvalidInput(f"{after!r} is not a trial of this search.", param="after")
        query = query.where(TrialRow.number < last.number if descending else TrialRow.number > last.number)
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def add(session: Session, row: SearchRow | TrialRow) -> None:
    session.add(row)
    session.flush()


def states(session: Session, found: list[TrialRow]) -> dict[str, JobState]:
    """The trials' jobs by id, as they are at this moment."""
    columns = (Job.id, Job.status, Job.result, Job.error, Job.progress, Job.finished_at)
    query = sa.select(*columns).where(Job.id.in_([trial.job_id for trial in found]))
    return {row.id: JobState(*row[1:]) for row in session.execute(query)}


def validations(session: Session, job_id: str) -> list[dict[str, Any]]:
    """What a trial's validations have measured so far, in order.

    Each with the training loss measured in the same way or, where it is not measured, the mean of the steps since the
    one before: a single batch's loss says little.
    """
    query = sa.select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.type == "metrics")
    found: list[dict[str, Any]] = []
    losses: list[float] = []
    for data in session.scalars(query.order_by(JobEvent.step)):
        assert data is not None, "metrics events carry their numbers"
        losses.append(data["train_loss"])
        if "valid_loss" in data:
            kept = {name: data[name] for name in ("step", "total_steps", "epoch", "valid_loss")}
            found.append(kept | {"train_loss": data.get("train_eval_loss", fmean(losses))})
            losses = []
    return found


def lock_waiting(session: Session, job_id: str) -> bool:
    """Whether the job still waits for a worker, and is held so; one that a worker holds just now does not wait."""
    query = sa.select(Job.id).where(Job.id == job_id, Job.status == "queued")
    return session.scalars(query.with_for_update(skip_locked=True)).one_or_none() is not None


def has_validation(session: Session, dataset_id: str) -> bool:
    """Whether a dataset has validation examples to choose by."""
    table = others.examples
    wanted = sa.exists().where(table.c.dataset_id == dataset_id, table.c.split == "validation")
    return bool(session.scalar(sa.select(wanted)))
