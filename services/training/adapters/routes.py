"""`/adapters`: adapters that clients bring, and those that were trained here."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query

from services.training.adapters import handlers, repository
from services.training.adapters.answers import AdapterObject, DeletedAdapter
from services.training.adapters.schemas import CreateAdapter, adapter_object
from services.training.settings import TrainingSettings
from shared.answers import Page, answering
from shared.web import Caller, caller, page, wiring
from shared.wiring import Wiring

router = APIRouter(prefix="/adapters", tags=["adapters"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("", responses=answering(AdapterObject))
def create_adapter(body: CreateAdapter, who: Who, parts: Parts) -> dict[str, Any]:
    """Take in a LoRA adapter: safetensors weights and peft's configuration, both uploaded before as files.

    The answer's `status` is "queued"; a job checks the bytes, loads them in a process of its own, and makes one
    forward pass. Then `status` is "ready" and `model` is a model id for chat, variants and further fine-tuning; or it
    is "failed", and `error` says what was refused and where.
    """
    wanted = handlers.NewAdapter(
        base_model=body.base_model,
        weights_file=body.weights_file,
        config_file=body.config_file,
        suffix=body.suffix,
        metadata=body.metadata,
    )
    with parts.database.transaction(who.project_id) as session:
        return adapter_object(handlers.create_adapter(session, who.project_id, wanted, TrainingSettings()))


@router.get("", responses=answering(Page[AdapterObject]))
def list_adapters(
    who: Who,
    parts: Parts,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """The project's adapters, uploaded (in every state) and trained; `source` tells them apart."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.listing(session, after=after, limit=limit, descending=order == "desc")
        return page([adapter_object(one) for one in found], has_more=more)


@router.get("/{adapter_id}", responses=answering(AdapterObject))
def show_adapter(adapter_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One adapter, by its id or its model id."""
    with parts.database.transaction(who.project_id) as session:
        return adapter_object(repository.known(session, adapter_id))


@router.delete("/{adapter_id}", responses=answering(DeletedAdapter))
def delete_adapter(adapter_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Delete an adapter and its weights, unless a variant or an unfinished job (training, search, export) needs it."""
    deleted = handlers.delete_adapter(parts, who.project_id, adapter_id)
    return {"id": deleted, "object": "adapter", "deleted": True}
