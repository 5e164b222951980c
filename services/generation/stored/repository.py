"""Every query about stored completions; nothing here commits."""

from collections.abc import Mapping
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from services.generation.stored.errors import CompletionNotFound
from services.generation.stored.tables import StoredCompletion

Order = Literal["asc", "desc"]


def get_completion(
    session: Session, completion_id: str, *, param: str = "completion_id", with_messages: bool = False
) -> StoredCompletion:
    """The project's stored completion, or CompletionNotFound; one past its expiry is gone."""
    query = sa.select(StoredCompletion).where(StoredCompletion.id == completion_id, _alive())
    if with_messages:
        query = query.options(undefer(StoredCompletion.messages))
    found = session.scalars(query).one_or_none()
    if found is None:
        raise CompletionNotFound(
            f"There is no stored completion {completion_id!r} in this project: it was asked without `store`, was "
            "deleted or has expired.",
            param=param,
        )
    return found


def list_completions(
    session: Session, *, after: str | None, limit: int, order: Order, model: str | None, metadata: Mapping[str, str]
) -> tuple[list[StoredCompletion], bool]:
    """Those of one model, if it is named, that carry all of `metadata`; the flag says whether more follow."""
    position = sa.tuple_(StoredCompletion.created_at, StoredCompletion.id)
    query = sa.select(StoredCompletion).where(_alive()).limit(limit + 1)
    if model is not None:
        query = query.where(StoredCompletion.model == model)
    if metadata:
        query = query.where(StoredCompletion.metadata_.contains(metadata))
    if after is not None:
        last = get_completion(session, after, param="after")
        found_at = sa.tuple_(last.created_at, last.id)
        query = query.where(position > found_at if order == "asc" else position < found_at)
    columns = (StoredCompletion.created_at, StoredCompletion.id)
    query = query.order_by(*(column if order == "asc" else column.desc() for column in columns))
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def delete_expired(session: Session) -> int:
    """Delete what nobody sees any more; answers how many."""
    expired = sa.delete(StoredCompletion).where(StoredCompletion.expires_at <= sa.func.now())
    return len(session.scalars(expired.returning(StoredCompletion.id)).all())


def _alive() -> sa.ColumnElement[bool]:
    return sa.or_(StoredCompletion.expires_at.is_(None), StoredCompletion.expires_at > sa.func.now())
