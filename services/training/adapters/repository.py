"""Every query about adapters and their uploads."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.training.adapters.tables import AdapterImport
from services.training.errors import AdapterNotFound
from services.training.tables import AdapterRow
from shared.jobs.tables import Job
from shared.weights import are_there

_adapter_id: sa.ColumnElement[str] = sa.func.coalesce(AdapterImport.id, AdapterRow.id)
_created_at: sa.ColumnElement[datetime] = sa.func.coalesce(AdapterImport.created_at, AdapterRow.created_at)


@dataclass(frozen=True)
class KnownAdapter:
    """An adapter or one to be: an upload, trained weights, or an upload that became weights."""

    upload: AdapterImport | None
    adapter: AdapterRow | None
    job: Job | None

    @property
    def row(self) -> AdapterImport | AdapterRow:
        """The one of the two that came first."""
        found = self.upload or self.adapter
        assert found is not None, "a known adapter has one of the two"
        return found

    @property
    def id(self) -> str:
        return self.row.id


def find_upload(session: Session, adapter_id: str, *, lock: bool = False) -> AdapterImport | None:
    query = sa.select(AdapterImport).where(AdapterImport.id == adapter_id)
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def known(session: Session, adapter_id: str) -> KnownAdapter:
    """The adapter of this id or of this model id; AdapterNotFound."""
    query = _known().where(sa.or_(_adapter_id == adapter_id, AdapterRow.model_id == adapter_id))
    found = session.execute(query).one_or_none()
    if found is None:
        raise AdapterNotFound(f"There is no adapter {adapter_id!r} in this project.", param="adapter_id")
    return KnownAdapter(*found)


def listing(session: Session, *, after: str | None, limit: int, descending: bool) -> tuple[list[KnownAdapter], bool]:
    """Uploads and trained adapters by age; the flag says whether more follow."""
    order = sa.tuple_(_created_at, _adapter_id)
    query = _known().limit(limit + 1)
    query = query.order_by(*(column.desc() if descending else column for column in (_created_at, _adapter_id)))
    if after is not None:
        row = known(session, after).row
        place = sa.tuple_(sa.literal(row.created_at), sa.literal(row.id))
        query = query.where(order < place if descending else order > place)
    found = [KnownAdapter(*row) for row in session.execute(query)]
    return found[:limit], len(found) > limit


def _known() -> sa.Select[AdapterImport, AdapterRow, Job]:
    both = sa.outerjoin(AdapterImport, AdapterRow, AdapterImport.id == AdapterRow.id, full=True)
    job_id = sa.func.coalesce(AdapterImport.job_id, AdapterRow.job_id)
    found = sa.select(AdapterImport, AdapterRow, Job).select_from(both).outerjoin(Job, Job.id == job_id)
    return found.where(are_there(_adapter_id))
