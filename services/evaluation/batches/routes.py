"""OpenAI's batches over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from services.evaluation.batches import handlers, repository
from services.evaluation.batches.answers import BatchObject
from services.evaluation.batches.schemas import CreateBatch, batch_object
from shared.answers import Page, answering
from shared.web import Caller, caller, page, wiring
from shared.wiring import Wiring

router = APIRouter(prefix="/batches", tags=["batches"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]


@router.post("", responses=answering(BatchObject))
def create_batch(body: CreateBatch, who: Who, parts: Parts) -> dict[str, Any]:
    """Ask every line of a file within 24 hours. A file with a line that is no request fails as a whole."""
    with parts.database.transaction(who.project_id) as session:
        return batch_object(handlers.create_batch(session, who.project_id, body, parts.settings))


@router.get("", responses=answering(Page[BatchObject]))
def list_batches(
    who: Who, parts: Parts, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> dict[str, Any]:
    """The project's batches, newest first."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.list_batches(session, after=after, limit=limit)
        return page([batch_object(row) for row in found], has_more=more)


@router.get("/{batch_id}", responses=answering(BatchObject))
def show_batch(batch_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One batch; its request counts grow while it is in progress."""
    with parts.database.transaction(who.project_id) as session:
        return batch_object(repository.get_batch(session, batch_id))


@router.post("/{batch_id}/cancel", responses=answering(BatchObject))
def cancel_batch(batch_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Ask no more lines. The answers so far are kept: the output file is there once the batch is `cancelled`."""
    with parts.database.transaction(who.project_id) as session:
        return batch_object(handlers.cancel_batch(session, batch_id))
