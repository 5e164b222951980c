"""The gateway's queries beyond keys: usage, the audit log, records of idempotent requests."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.gateway.errors import AuditEntryNotFound
from services.gateway.tables import AuditEntry, IdempotencyRecord

_RECORD_KEY = [IdempotencyRecord.project_id, IdempotencyRecord.id]


def add_audit_entry(session: Session, row: AuditEntry) -> None:
    session.add(row)
    session.flush()


def audit_entries(
    session: Session, *, after: str | None, limit: int, descending: bool
) -> tuple[list[AuditEntry], bool]:
    """A page of the project's log; the flag says whether more follow."""
    order = sa.tuple_(AuditEntry.created_at, AuditEntry.id)
    columns = (AuditEntry.created_at, AuditEntry.id)
    query = sa.select(AuditEntry).order_by(*(c.desc() if descending else c.asc() for c in columns)).limit(limit + 1)
    if after is not None:
        last = session.get(AuditEntry, after)
        if last is None:
            raise AuditEntryNotFound(f"There is no entry {after!r} in this project's audit log.", param="after")
        border = sa.tuple_(last.created_at, last.id)
        query = query.where(order < border if descending else order > border)
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def claim_record(
    session: Session, project_id: str, record_id: str, token: str, request_sha256: str | None, seconds: float
) -> IdempotencyRecord | None:
    """None if the record is now this claim's, because there was none or it had expired; else the record."""
    _forget_expired(session)
    values = _values(project_id, record_id, token, request_sha256, seconds)
    query = insert(IdempotencyRecord).values(values).on_conflict_do_nothing(index_elements=_RECORD_KEY)
    if session.execute(query.returning(IdempotencyRecord.id)).one_or_none() is not None:
        return None
    # a statement of its own sees what a rival committed in between
    found = kept_record(session, record_id)
    return found if found is not None else claim_record(session, project_id, record_id, token, request_sha256, seconds)


def take_record(
    session: Session, project_id: str, record_id: str, token: str, request_sha256: str, seconds: float
) -> None:
    """Make the record this claim's, whoever had it; an answer that it held is forgotten."""
    _forget_expired(session)
    values = _values(project_id, record_id, token, request_sha256, seconds)
    unanswered = dict.fromkeys(("status", "headers", "body"), sa.null())
    replaced = {"claim": token, "expires_at": values["expires_at"], **unanswered}
    query = insert(IdempotencyRecord).values(values)
    session.execute(query.on_conflict_do_update(index_elements=_RECORD_KEY, set_=replaced))


def kept_record(session: Session, record_id: str) -> IdempotencyRecord | None:
    """The project's record unless it has expired."""
    query = sa.select(IdempotencyRecord).where(
        IdempotencyRecord.id == record_id, IdempotencyRecord.expires_at > sa.func.clock_timestamp()
    )
    return session.scalars(query).one_or_none()


def finish_record(
    session: Session,
    record_id: str,
    token: str,
    *,
    request_sha256: str,
    status: int,
    headers: dict[str, str],
    body: bytes | None,
    seconds: float,
) -> None:
    """Write the answer into a record, if the claim on it still holds."""
    session.execute(
        _claimed(sa.update(IdempotencyRecord), record_id, token).values(
            request_sha256=request_sha256, status=status, headers=headers, body=body, expires_at=_in(seconds)
        )
    )


def release_record(session: Session, record_id: str, token: str) -> None:
    """Let the next request with the key run."""
    session.execute(_claimed(sa.delete(IdempotencyRecord), record_id, token))


def _values(project_id: str, record_id: str, token: str, request_sha256: str | None, seconds: float) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "id": record_id,
        "claim": token,
        "request_sha256": request_sha256,
        "expires_at": _in(seconds),
    }


def _claimed(statement: Any, record_id: str, token: str) -> Any:
    return statement.where(IdempotencyRecord.id == record_id, IdempotencyRecord.claim == token)


def _forget_expired(session: Session) -> None:
    """The project's own records: row-level security shows no others."""
    session.execute(sa.delete(IdempotencyRecord).where(IdempotencyRecord.expires_at <= sa.func.clock_timestamp()))


def _in(seconds: float) -> Any:
    return sa.func.clock_timestamp() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
