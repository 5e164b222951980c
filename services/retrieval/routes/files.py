"""The files of a vector store."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from services.retrieval import document_rows, repository, store_life
from services.retrieval.answers import DetachedFile, FilePassages, VectorStoreFileObject
from services.retrieval.embedder_reach import refuse_unread
from services.retrieval.routes.edge import Listed, Parts, Who, ask_again
from services.retrieval.routes.objects import file_object
from services.retrieval.schemas import AttachFile, UpdateFile
from shared.answers import Page, answering
from shared.web import page

router = APIRouter(prefix="/vector_stores/{store_id}/files")
Status = Annotated[
    Literal["in_progress", "completed", "failed", "cancelled"] | None,
    Query(alias="filter", description="Only files of this status."),
]


@router.post("", responses=answering(VectorStoreFileObject))
def attach_file(store_id: str, body: AttachFile, who: Who, parts: Parts) -> dict[str, Any]:
    """Add one file and index it; one that is in the store already is indexed anew."""
    with parts.database.transaction(who.project_id) as session:
        store = repository.usable_store(session, store_id, lock=True)
        ordered = body.ordered()
        refuse_unread(ordered.chunking, parts.settings.models_dir, store.embedder)
        store_life.attach_files(session, store, [ordered], parts.settings)
        return file_object(store, repository.get_file(session, store_id, body.file_id), parts.settings.models_dir)


@router.get("", responses=answering(Page[VectorStoreFileObject]))
def list_files(store_id: str, who: Who, parts: Parts, listed: Listed, status: Status = None) -> dict[str, Any]:
    """The store's files, newest first unless `order=asc`, `filter` by status."""
    with parts.database.transaction(who.project_id) as session:
        store = store_life.fresh_store(session, store_id)
        found, more = repository.list_files(session, store_id, listed, status=status)
        return page([file_object(store, file, parts.settings.models_dir) for file in found], has_more=more)


@router.get("/{file_id}", responses=answering(VectorStoreFileObject))
def show_file(store_id: str, file_id: str, who: Who, parts: Parts, response: Response) -> dict[str, Any]:
    """One file's state in the store; `last_error` says why it failed."""
    with parts.database.transaction(who.project_id) as session:
        store = store_life.fresh_store(session, store_id)
        file = repository.get_file(session, store_id, file_id)
        ask_again(response, file.status)
        return file_object(store, file, parts.settings.models_dir)


@router.post("/{file_id}", responses=answering(VectorStoreFileObject))
def update_file(store_id: str, file_id: str, body: UpdateFile, who: Who, parts: Parts) -> dict[str, Any]:
    """Replace the attributes that searches filter by; nothing is indexed again."""
    with parts.database.transaction(who.project_id) as session:
        file = repository.get_file(session, store_id, file_id, lock=True)
        file.attributes = dict(body.attributes or {})
        session.flush()
        return file_object(repository.get_store(session, store_id), file, parts.settings.models_dir)


@router.get("/{file_id}/content", responses=answering(FilePassages))
def file_content(store_id: str, file_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """The file's passages in reading order; none while it waits, and of an expired store."""
    with parts.database.transaction(who.project_id) as session:
        repository.get_file(session, store_id, file_id)
        texts = document_rows.file_text(session, store_id, file_id)
    data = [{"type": "text", "text": text} for text in texts]
    return {"object": "vector_store.file_content.page", "data": data, "has_more": False, "next_page": None}


@router.delete("/{file_id}", responses=answering(DetachedFile))
def detach_file(store_id: str, file_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Take a file and its passages out of the store."""
    with parts.database.transaction(who.project_id) as session:
        store_life.detach_file(session, store_id, file_id)
    return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}
