"""Vector stores and embeddings over HTTP, as OpenAI's client calls them."""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Query

from services.retrieval import handlers, repository
from services.retrieval.schemas import (
    MOST_INPUTS,
    AttachFile,
    CreateEmbedding,
    CreateStore,
    Search,
    UpdateFile,
    UpdateStore,
)
from services.retrieval.settings import RetrievalSettings
from services.retrieval.tables import VectorStore, VectorStoreFile
from shared.clock import unix
from shared.errors import InvalidInput
from shared.web import Caller, caller, page, wiring
from shared.wiring import Wiring

router = APIRouter(tags=["retrieval"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
Order = Literal["asc", "desc"]
Limit = Annotated[int, Query(ge=1, le=100)]
_SEARCH_SECONDS = 30.0
_EMBED_SECONDS = 120.0


@router.post("/vector_stores")
def create_store(body: CreateStore, who: Who, parts: Parts) -> dict[str, Any]:
    """Create a store; its files are indexed by a job, so it is `in_progress` at first."""
    with parts.database.transaction(who.project_id) as session:
        store = handlers.create_store(
            session,
            who.project_id,
            name=body.name,
            file_ids=body.file_ids,
            metadata=body.metadata or {},
            chunking=body.chunking_strategy.sizes() if body.chunking_strategy else None,
            settings=RetrievalSettings(),
        )
        return store_object(store, repository.file_counts(session, [store.id])[store.id])


@router.get("/vector_stores")
def list_stores(
    who: Who, parts: Parts, after: str | None = None, limit: Limit = 20, order: Order = "desc"
) -> dict[str, Any]:
    """The project's stores."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.list_stores(session, after=after, limit=limit, descending=order != "asc")
        found = [handlers.fresh_store(session, store.id) for store in found]
        counts = repository.file_counts(session, [store.id for store in found])
        return page([store_object(store, counts[store.id]) for store in found], has_more=more)


@router.get("/vector_stores/{store_id}")
def show_store(store_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One store with its file counts."""
    with parts.database.transaction(who.project_id) as session:
        store = handlers.fresh_store(session, store_id)
        return store_object(store, repository.file_counts(session, [store_id])[store_id])


@router.post("/vector_stores/{store_id}")
def update_store(store_id: str, body: UpdateStore, who: Who, parts: Parts) -> dict[str, Any]:
    """Change name or metadata."""
    with parts.database.transaction(who.project_id) as session:
        store = repository.get_store(session, store_id, lock=True)
        store.name = body.name if body.name is not None else store.name
        store.metadata_ = body.metadata if body.metadata is not None else store.metadata_
        session.flush()
        return store_object(store, repository.file_counts(session, [store_id])[store_id])


@router.delete("/vector_stores/{store_id}")
def delete_store(store_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Delete a store with its passages; the files themselves stay."""
    with parts.database.transaction(who.project_id) as session:
        session.delete(repository.get_store(session, store_id, lock=True))
    return {"id": store_id, "object": "vector_store.deleted", "deleted": True}


@router.post("/vector_stores/{store_id}/search")
def search_store(store_id: str, body: Search, who: Who, parts: Parts) -> dict[str, Any]:
    """The best passages for a query (or several), hybrid unless `mode` says otherwise."""
    queries = [body.query] if isinstance(body.query, str) else body.query
    request = {"vector_store_id": store_id, "query": queries, "k": body.max_num_results, "mode": body.mode}
    answer = parts.live.ask(
        "retrieval.interactive",
        "retrieval.search",
        who.project_id,
        request | {"filters": body.filters},
        timeout_s=_SEARCH_SECONDS,
    )
    least = body.ranking_options.score_threshold if body.ranking_options else 0.0
    found = [result for results in answer["results"] for result in results if result["score"] >= least]
    return {
        "object": "vector_store.search_results.page",
        "search_query": queries,
        "data": [result_object(result) for result in found],
        "has_more": False,
        "next_page": None,
    }


@router.post("/vector_stores/{store_id}/files")
def attach_file(store_id: str, body: AttachFile, who: Who, parts: Parts) -> dict[str, Any]:
    """Add one file and index it."""
    with parts.database.transaction(who.project_id) as session:
        store = repository.get_store(session, store_id, lock=True)
        handlers.attach_files(session, store, [body.file_id], dict(body.attributes or {}))
        return file_object(store, repository.get_file(session, store_id, body.file_id))


@router.get("/vector_stores/{store_id}/files")
def list_files(
    store_id: str,
    who: Who,
    parts: Parts,
    after: str | None = None,
    limit: Limit = 20,
    order: Order = "desc",
    status: Annotated[str | None, Query(alias="filter")] = None,
) -> dict[str, Any]:
    """The store's files, `filter` by status."""
    with parts.database.transaction(who.project_id) as session:
        store = handlers.fresh_store(session, store_id)
        found, more = repository.list_files(
            session, store_id, after=after, limit=limit, status=status, descending=order != "asc"
        )
        return page([file_object(store, file) for file in found], has_more=more)


@router.get("/vector_stores/{store_id}/files/{file_id}")
def show_file(store_id: str, file_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One file's state in the store."""
    with parts.database.transaction(who.project_id) as session:
        store = handlers.fresh_store(session, store_id)
        return file_object(store, repository.get_file(session, store_id, file_id))


@router.post("/vector_stores/{store_id}/files/{file_id}")
def update_file(store_id: str, file_id: str, body: UpdateFile, who: Who, parts: Parts) -> dict[str, Any]:
    """Replace the attributes that searches filter by; nothing is indexed again."""
    with parts.database.transaction(who.project_id) as session:
        file = repository.get_file(session, store_id, file_id)
        file.attributes = dict(body.attributes or {})
        session.flush()
        return file_object(repository.get_store(session, store_id), file)


@router.get("/vector_stores/{store_id}/files/{file_id}/content")
def file_content(store_id: str, file_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """The file's passages in reading order."""
    with parts.database.transaction(who.project_id) as session:
        repository.get_file(session, store_id, file_id)
        texts = repository.file_text(session, store_id, file_id)
    data = [{"type": "text", "text": text} for text in texts]
    return {"object": "vector_store.file_content.page", "data": data, "has_more": False, "next_page": None}


@router.delete("/vector_stores/{store_id}/files/{file_id}")
def detach_file(store_id: str, file_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Take a file and its passages out of the store."""
    with parts.database.transaction(who.project_id) as session:
        session.delete(repository.get_file(session, store_id, file_id))
    return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


@router.post("/embeddings")
def create_embeddings(body: CreateEmbedding, who: Who, parts: Parts) -> dict[str, Any]:
    """Unit vectors; base64 is little-endian float32, as the client decodes it."""
    texts = _texts(body.input)
    answer = parts.live.ask(
        "retrieval.interactive",
        "retrieval.embed",
        who.project_id,
        {"model": body.model, "input": texts},
        timeout_s=_EMBED_SECONDS,
    )
    vectors = _shorten(np.asarray(answer["embeddings"], dtype="<f4"), body.dimensions)
    used = answer["prompt_tokens"]
    return {
        "object": "list",
        "model": body.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": _encode(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def _texts(found: str | list[str] | list[int] | list[list[int]]) -> list[str]:
    texts = [found] if isinstance(found, str) else [text for text in found if isinstance(text, str)]
    if not isinstance(found, str) and len(texts) != len(found):
        raise InvalidInput("Send text: arrays of tokens belong to another model's vocabulary.", param="input")
    if not texts or len(texts) > MOST_INPUTS:
        raise InvalidInput(f"Between 1 and {MOST_INPUTS} inputs, not {len(texts)}.", param="input")
    if any(not text for text in texts):
        raise InvalidInput("An input must not be empty.", param="input")
    return texts


def _shorten(vectors: Any, dimensions: int | None) -> Any:
    """The first `dimensions` of each vector, of length 1 again. (N, D) → (N, dimensions)"""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    if dimensions > vectors.shape[1]:
        raise InvalidInput(f"This model has {vectors.shape[1]} dimensions, not {dimensions}.", param="dimensions")
    cut = vectors[:, :dimensions]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


def _encode(vector: Any, encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(x) for x in vector]


def store_object(store: VectorStore, counts: dict[str, int]) -> dict[str, Any]:
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": unix(store.created_at),
        "name": store.name,
        "status": store.status,
        "usage_bytes": counts["usage_bytes"],
        "file_counts": {name: count for name, count in counts.items() if name != "usage_bytes"},
        "last_active_at": unix(store.last_active_at),
        "expires_after": None,
        "expires_at": None,
        "metadata": store.metadata_,
        "embedder": store.embedder,
    }


def file_object(store: VectorStore, file: VectorStoreFile) -> dict[str, Any]:
    sizes = {
        "max_chunk_size_tokens": store.chunking["most"],
        "chunk_overlap_tokens": store.chunking["overlap"],
    }
    return {
        "id": file.file_id,
        "object": "vector_store.file",
        "created_at": unix(file.created_at),
        "vector_store_id": file.vector_store_id,
        "status": file.status,
        "usage_bytes": file.usage_bytes,
        "last_error": file.last_error,
        "attributes": file.attributes,
        "chunking_strategy": {"type": "static", "static": sizes},
    }


def result_object(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "file_id": result["file_id"],
        "filename": result["document"],
        "score": result["score"],
        "attributes": result["attributes"],
        "content": [{"type": "text", "text": result["text"]}],
        "passage_id": result["id"],
        "title": result["title"],
    }
