"""Every query about batches; nothing here commits."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.evaluation.batches.domain import Checked
from services.evaluation.batches.errors import BatchNotFound
from services.evaluation.batches.tables import Batch, BatchAnswer

_ROWS_AT_ONCE = 200


def get_batch(session: Session, batch_id: str, *, lock: bool = False) -> Batch:
    """The project's batch, or BatchNotFound.

    Who holds a job's lock may want a batch's, never the other way round: the job that asks saves under its own.
    """
    query = sa.select(Batch).where(Batch.id == batch_id)
    if lock:
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    found = session.scalars(query).one_or_none()
    if found is None:
        raise BatchNotFound(f"There is no batch {batch_id!r} in this project.", param="batch_id")
    return found


def list_batches(session: Session, *, after: str | None, limit: int) -> tuple[list[Batch], bool]:
    """Newest first, after the batch `after`; the flag says whether more follow."""
    query = sa.select(Batch).order_by(Batch.created_at.desc(), Batch.id.desc()).limit(limit + 1)
    if after is not None:
        last = get_batch(session, after)
        query = query.where(sa.tuple_(Batch.created_at, Batch.id) < sa.tuple_(last.created_at, last.id))
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def begin(session: Session, batch_id: str, checked: Checked) -> None:
    """The lines are in order: in progress from now on, unless it was cancelled meanwhile."""
    _move(session, batch_id, "validating", "in_progress", total=checked.total, model=checked.model)


def finalize(session: Session, batch_id: str) -> None:
    """Nothing is asked any more, unless it was cancelled meanwhile."""
    _move(session, batch_id, "in_progress", "finalizing")


def refuse(session: Session, batch_id: str, checked: Checked) -> None:
    """The file is no batch: failed, with its problems."""
    errors = [problem.as_record() for problem in checked.problems]
    _move(session, batch_id, "validating", "failed", total=checked.total, errors=errors)


def window_is_over(session: Session, batch_id: str) -> bool:
    """By the database's clock."""
    over = sa.select(Batch.expires_at <= sa.func.now()).where(Batch.id == batch_id)
    return bool(session.scalars(over).one())


def add_answers(session: Session, batch_id: str, rows: Sequence[dict[str, Any]]) -> int:
    """Keep answers and count them, each once however often it comes; answers the tokens that the new ones used."""
    added = insert(BatchAnswer).on_conflict_do_nothing().returning(BatchAnswer.line)
    new = set(session.scalars(added, list(rows)))
    fresh = [row for row in rows if row["line"] in new]
    good = sum(row["status_code"] == 200 for row in fresh)
    read, written = (sum(row[f"{kind}_tokens"] for row in fresh) for kind in ("input", "output"))
    counted = sa.update(Batch).where(Batch.id == batch_id)
    counted = counted.values(
        completed=Batch.completed + good,
        failed=Batch.failed + len(fresh) - good,
        input_tokens=Batch.input_tokens + read,
        output_tokens=Batch.output_tokens + written,
    )
    session.execute(counted.execution_options(synchronize_session=False))
    return int(read + written)


def answered(session: Session, batch_id: str) -> set[int]:
    """The lines that have an answer."""
    return set(session.scalars(sa.select(BatchAnswer.line).where(BatchAnswer.batch_id == batch_id)))


def answers(session: Session, batch_id: str, *, good: bool) -> Iterator[BatchAnswer]:
    """The answers by line, read as they are consumed: those of status 200, or the others."""
    fits = BatchAnswer.status_code == 200 if good else BatchAnswer.status_code != 200
    query = sa.select(BatchAnswer).where(BatchAnswer.batch_id == batch_id, fits).order_by(BatchAnswer.line)
    yield from session.scalars(query.execution_options(yield_per=_ROWS_AT_ONCE))


def end(session: Session, batch: Batch, status: str) -> None:
    """The last state. The answers lie in files now, and are gone when the project deletes those."""
    batch.status, batch.input_blob_key = status, None
    session.flush()
    stamp = f"{status}_at"
    session.execute(
        sa.update(Batch)
        .where(Batch.id == batch.id)
        .values({stamp: sa.func.coalesce(getattr(Batch, stamp), sa.func.now())})
    )
    session.execute(sa.delete(BatchAnswer).where(BatchAnswer.batch_id == batch.id))


def _move(session: Session, batch_id: str, before: str, after: str, **columns: Any) -> None:
    values = columns | {"status": after, f"{after}_at": sa.func.now()}
    moved = sa.update(Batch).where(Batch.id == batch_id, Batch.status == before).values(values)
    session.execute(moved.execution_options(synchronize_session=False))
