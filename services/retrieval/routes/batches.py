"""Batches of a vector store's files."""

from typing import Any

from fastapi import APIRouter, Response

from services.retrieval import repository, store_life
from services.retrieval.answers import FileBatchObject, VectorStoreFileObject
from services.retrieval.embedder_reach import refuse_unread
from services.retrieval.routes.edge import Listed, Parts, Who, ask_again
from services.retrieval.routes.files import Status
from services.retrieval.routes.objects import batch_object, file_object
from services.retrieval.schemas import CreateFileBatch
from shared.answers import Page, answering
from shared.web import page

router = APIRouter(prefix="/vector_stores/{store_id}/file_batches")


@router.post("", responses=answering(FileBatchObject))
def create_batch(store_id: str, body: CreateFileBatch, who: Who, parts: Parts) -> dict[str, Any]:
    """Add up to 2000 files by one job. A file named in an older batch, too, counts in both."""
    with parts.database.transaction(who.project_id) as session:
        store = repository.usable_store(session, store_id, lock=True)
        ordered = body.ordered()
        for one in ordered:
            refuse_unread(one.chunking, parts.settings.models_dir, store.embedder, where=one.where)
        batch = store_life.attach_batch(session, store, ordered, parts.settings)
        return batch_object(batch, repository.batch_counts(session, batch.id))


@router.get("/{batch_id}", responses=answering(FileBatchObject))
def show_batch(store_id: str, batch_id: str, who: Who, parts: Parts, response: Response) -> dict[str, Any]:
    """One batch with its file counts. It fails only if indexing broke down; a file may fail alone."""
    with parts.database.transaction(who.project_id) as session:
        batch, counts = store_life.fresh_batch(session, store_id, batch_id)
        ask_again(response, batch.status)
        return batch_object(batch, counts)


@router.post("/{batch_id}/cancel", responses=answering(FileBatchObject))
def cancel_batch(store_id: str, batch_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Stop indexing: what is indexed stays, what is not becomes cancelled."""
    with parts.database.transaction(who.project_id) as session:
        batch, counts = store_life.cancel_batch(session, store_id, batch_id)
        return batch_object(batch, counts)


@router.get("/{batch_id}/files", responses=answering(Page[VectorStoreFileObject]))
def list_batch_files(
    store_id: str, batch_id: str, who: Who, parts: Parts, listed: Listed, status: Status = None
) -> dict[str, Any]:
    """The batch's files as they are now, `filter` by status."""
    with parts.database.transaction(who.project_id) as session:
        store_life.fresh_batch(session, store_id, batch_id)
        store = repository.get_store(session, store_id)
        found, more = repository.list_files(session, store_id, listed, status=status, batch_id=batch_id)
        return page([file_object(store, file, parts.settings.models_dir) for file in found], has_more=more)
