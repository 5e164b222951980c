"""Stored chat completions over HTTP, and how a chat's answer is kept on its way out."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from services.generation.chat_schemas import ChatCompletion
from services.generation.settings import GenerationSettings
from services.generation.stored import handlers, repository
from services.generation.stored.answers import DeletedCompletion, SentMessage, StoredCompletionObject
from services.generation.stored.errors import NotStored
from services.generation.stored.repository import Order
from services.generation.stored.schemas import UpdateCompletion, completion_object, kept_fields, kept_messages
from shared.answers import Page, answering
from shared.telemetry import logger
from shared.web import METADATA_FILTER, Caller, caller, metadata_filter, page, wiring
from shared.wiring import Wiring

log = logger(__name__)
router = APIRouter(prefix="/chat/completions", tags=["chat"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
Limit = Annotated[int, Query(ge=1, le=100)]
Metadata = Annotated[dict[str, str], Depends(metadata_filter)]
Keep = Callable[[dict[str, Any]], Awaitable[None]]


@router.get("", openapi_extra=METADATA_FILTER, responses=answering(Page[StoredCompletionObject]))
def list_completions(
    who: Who,
    parts: Parts,
    metadata: Metadata,
    after: str | None = None,
    limit: Limit = 20,
    order: Order = "asc",
    model: str | None = None,
) -> dict[str, Any]:
    """The project's stored completions, oldest first unless told otherwise; `model` and `metadata` narrow the list."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.list_completions(
            session, after=after, limit=limit, order=order, model=model, metadata=metadata
        )
        return page([completion_object(row) for row in found], has_more=more)


@router.get("/{completion_id}", responses=answering(StoredCompletionObject))
def show_completion(completion_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One answer that was asked with `store`, with the request's sampling and its metadata.

    It is kept for 30 days unless the server says otherwise (`UPLIFT_STORED_COMPLETION_DAYS`).
    """
    with parts.database.transaction(who.project_id) as session:
        return completion_object(repository.get_completion(session, completion_id))


@router.post("/{completion_id}", responses=answering(StoredCompletionObject))
def update_completion(completion_id: str, body: UpdateCompletion, who: Who, parts: Parts) -> dict[str, Any]:
    """Replace a stored completion's metadata; nothing else of it changes."""
    with parts.database.transaction(who.project_id) as session:
        row = handlers.update_completion(session, completion_id, body.metadata or {}, parts.settings)
        return completion_object(row)


@router.delete("/{completion_id}", responses=answering(DeletedCompletion))
def delete_completion(completion_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Delete a stored completion with its messages."""
    with parts.database.transaction(who.project_id) as session:
        handlers.delete_completion(session, completion_id)
    return {"id": completion_id, "object": "chat.completion.deleted", "deleted": True}


@router.get("/{completion_id}/messages", responses=answering(Page[SentMessage]))
def list_messages(
    completion_id: str, who: Who, parts: Parts, after: str | None = None, limit: Limit = 20, order: Order = "asc"
) -> dict[str, Any]:
    """The messages that a stored completion answers, in their order unless told otherwise."""
    with parts.database.transaction(who.project_id) as session:
        found, more = handlers.list_messages(session, completion_id, after=after, limit=limit, order=order)
        return page(found, has_more=more)


async def keeping(request: Request, order: ChatCompletion, who: Caller) -> Keep:
    """How to keep the answer to this request, whose body asks for it, once it is there.

    It is committed when the awaitable is done. That raises NotStored or QuotaExceeded where it is not; the caller then
    sends an error in the place of the answer's end.
    """
    # as they were sent, which the order is not; whoever made it left what it parsed with the request
    messages = kept_messages((await request.json())["messages"])
    parts = await wiring(request)

    async def keep(answer: dict[str, Any]) -> None:
        await run_in_threadpool(_keep, parts, who, order, messages, answer)

    return keep


def _keep(parts: Wiring, who: Caller, order: ChatCompletion, messages: list[Any], answer: dict[str, Any]) -> None:
    try:
        with parts.database.transaction(who.project_id) as session:
            handlers.keep_completion(
                session,
                who.project_id,
                answer | kept_fields(order, who.request_id),
                messages,
                order.metadata or {},
                days=GenerationSettings().stored_completion_days,
                settings=parts.settings,
            )
    except SQLAlchemyError as error:
        log.error("completion not stored", completion_id=answer["id"], error=str(error).splitlines()[0])
        raise NotStored(
            "The answer was made, but the database did not store it, so it is not given out. Ask again, or leave "
            "`store` out.",
            param="store",
        ) from error
