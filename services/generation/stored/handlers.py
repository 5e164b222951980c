"""Use cases of stored completions: keep an answer, change its metadata, page through its messages, let it expire."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from services.generation.stored import repository
from services.generation.stored.errors import MessageNotFound
from services.generation.stored.repository import Order
from services.generation.stored.schemas import message_objects
from services.generation.stored.tables import StoredCompletion
from shared import jobs, quotas
from shared.clock import now
from shared.jobs import JobContext, JobHandler
from shared.messages import Command, DeleteExpiredCompletions
from shared.settings import Settings


def keep_completion(
    session: Session,
    project_id: str,
    completion: Mapping[str, Any],
    messages: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, str],
    *,
    days: int,
    settings: Settings,
) -> StoredCompletion:
    """Keep an answer with what was asked, for `days` (0: until it is deleted). Raises QuotaExceeded."""
    row = StoredCompletion(id=completion["id"], project_id=project_id, model=completion["model"])
    row.completion, row.messages, row.metadata_ = _json(completion), _json(messages), dict(metadata)
    row.bytes = sum(len(text.encode()) for text in (row.completion, row.messages, _json(metadata)))
    row.expires_at = now() + timedelta(days=days) if days else None
    quotas.claim_storage(session, project_id, row.bytes, settings, param="store")
    session.add(row)
    session.flush()
    if row.expires_at is not None:
        _order_sweep(session, project_id, row.expires_at)
    return row


def update_completion(
    session: Session, completion_id: str, metadata: Mapping[str, str], settings: Settings
) -> StoredCompletion:
    """Replace the metadata. Raises QuotaExceeded where it grows beyond what the project may store."""
    row = repository.get_completion(session, completion_id)
    more = len(_json(metadata).encode()) - len(_json(row.metadata_).encode())
    if more > 0:
        quotas.claim_storage(session, row.project_id, more, settings, param="metadata")
    row.metadata_, row.bytes = dict(metadata), row.bytes + more
    session.flush()
    return row


def delete_completion(session: Session, completion_id: str) -> None:
    session.delete(repository.get_completion(session, completion_id))


def list_messages(
    session: Session, completion_id: str, *, after: str | None, limit: int, order: Order
) -> tuple[list[dict[str, Any]], bool]:
    """The messages that were sent, after the message `after`; the flag says whether more follow."""
    found = message_objects(repository.get_completion(session, completion_id, with_messages=True))
    if order == "desc":
        found.reverse()
    if after is not None:
        ids = [one["id"] for one in found]
        if after not in ids:
            raise MessageNotFound(f"The completion {completion_id} has no message {after!r}.", param="after")
        found = found[ids.index(after) + 1 :]
    return found[:limit], len(found) > limit


def delete_expired(context: JobContext, _order: DeleteExpiredCompletions) -> None:
    """The job that waits for the end of a day on which completions expire."""
    with context.transaction() as session:
        context.succeed(session, {"completions": repository.delete_expired(session)})


def _order_sweep(session: Session, project_id: str, expires_at: datetime) -> None:
    """Have it deleted at the end of the day (by UTC) on which it expires; a project's day needs one sweep."""
    day_over = expires_at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    key = f"stored_completions:{day_over.date()}"
    jobs.send(session, project_id, DeleteExpiredCompletions(), dedupe_key=key, run_after=day_over)


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)


JOB_HANDLERS: dict[type[Command], JobHandler] = {DeleteExpiredCompletions: delete_expired}
